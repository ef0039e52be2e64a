"""What the actors of a run say about loading their model, as small files in the output folder.

An actor that cannot load it ends the batch only if no other can: one machine with a damaged bundle
or a full disk must not stop the others.
"""

import itertools
import json
import secrets
import time
from collections.abc import Iterator

from dream_o.batch.storage import HIDDEN, Storage

ACTORS = f"{HIDDEN}/actors"
LOADING, WORKS, FAILED = "loading", "works", "failed"
# How long an actor that cannot load waits for others to appear, and for one that loads: it may have
# been killed.
APPEAR_SECONDS, LOAD_SECONDS = 60.0, 1800.0
# Seconds between an actor's tries to load; the last is repeated.
PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)


def pauses() -> Iterator[float]:
    """Seconds before each further try to load, without an end."""
    return itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))


class Roll:
    """One actor's entry among those of its run.

    Args:
        storage: the output folder.
        run: the run's name.
        expected: how many actors the run begins with.
    """

    def __init__(self, storage: Storage, run: str, expected: int) -> None:
        self.storage = storage
        self.folder = f"{ACTORS}/{run}"
        self.expected = expected
        self.path = f"{self.folder}/{secrets.token_hex(8)}"
        self._begun = time.time()

    def say(self, state: str) -> None:
        """Writes LOADING, WORKS or FAILED for the others to read."""
        content = json.dumps([state, time.time()])
        self.storage.write(self.path, content.encode())

    def is_hopeless(self) -> bool:
        """Whether no actor works, and none that is expected may still come to work."""
        states = [state for state in map(self._state, self.storage.files(self.folder)) if state]
        if any(state != FAILED for state in states):
            return False
        return len(states) >= self.expected or time.time() - self._begun > APPEAR_SECONDS

    def _state(self, path: str) -> str:
        """An actor's state; empty for one that loads so long that it was probably killed."""
        try:
            state, said = json.loads(self.storage.read(path) or b"")
        except ValueError:
            return ""
        is_gone = state == LOADING and time.time() - said > LOAD_SECONDS
        return "" if is_gone else str(state)
