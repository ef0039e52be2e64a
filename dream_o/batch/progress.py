"""The progress of a batch on standard error."""

import time

from tqdm import tqdm

from dream_o.batch.ledger import FAILED, Outcome

# Replaces tqdm's own line, because tqdm does not know images per minute.
FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}, {remaining} left"


class Bar:
    """A bar that shows the images made and failed, the images per minute, and the time left."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._begun = 0.0
        self._made = self._failed = 0

    def start(self, total: int, done: int) -> None:
        """Shows the bar."""
        self._begun = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc="images", bar_format=FORMAT, unit="image")
        self._tell()

    def add(self, outcome: Outcome) -> None:
        """Counts an outcome if it is final."""
        if self._bar is None or not outcome.is_final:
            return
        self._made += 1
        self._failed += outcome.status == FAILED
        self._tell()
        self._bar.update()

    def stop(self) -> None:
        """Stops the bar, which stays on the screen."""
        if self._bar is not None:
            self._bar.close()

    def _tell(self) -> None:
        assert self._bar is not None
        minutes = (time.monotonic() - self._begun) / 60
        rate = self._made / minutes if self._made else 0.0
        self._bar.set_postfix_str(f"{self._failed} failed, {rate:.1f} a minute", refresh=False)
