"""One batch at a time in an output folder, whatever machines the batches run on.

A lock of this machine refuses a second batch here at once. For other machines, the output folder
has an object with the owner and the time of its last sign of life, which the owner renews.
"""

import hashlib
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from dream_o.batch.storage import Storage
from dream_o.errors import UserError

LOCK = ".batch.lock"
# Seconds between two signs of life, and after which an owner without one counts as gone. Machines'
# clocks may differ by less than half of the second.
BEAT_SECONDS, GONE_SECONDS = 20.0, 120.0

Check = Callable[[], None]
"""Raises UserError if another batch took the folder over."""


@contextmanager
def alone(storage: Storage) -> Iterator[Check]:
    """Keeps the folder for this batch until the block ends.

    A batch of this machine that was killed does not hold it any more; one of another machine holds
    it for GONE_SECONDS after its last sign of life.

    Raises:
        UserError: another batch writes into the folder; or the folder cannot be written.
    """
    digest = hashlib.sha256(storage.address.encode()).hexdigest()[:16]
    # A file of another user cannot be opened, so each user has an own one.
    user = os.getuid() if hasattr(os, "getuid") else 0
    here = Path(tempfile.gettempdir(), f"dream-o-batch-{user}-{digest}.lock")
    try:
        lock = filelock.FileLock(here)
        with lock.acquire(blocking=False), _Held(storage, here.with_suffix(".owner")) as held:
            yield held.check
    except filelock.Timeout:
        raise UserError(
            "--output: another batch writes into this folder; wait for its end, or name another"
        ) from None


class _Held:
    """The lock object in the output folder, and a thread that renews it.

    Args:
        storage: the output folder.
        last: a file of this machine with the last owner here. This process holds this machine's
            lock, so that owner has ended.
    """

    def __init__(self, storage: Storage, last: Path) -> None:
        self.storage = storage
        self.last = last
        self.owner = secrets.token_hex(16)
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._renew, name="batch-lock", daemon=True)

    def __enter__(self) -> "_Held":
        if not self.storage.create(LOCK, self._sign()):
            self._take_over()
        self.last.write_text(self.owner)
        self.check()
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beat.join()
        with suppress(UserError):  # what the batch itself met is told, not this
            if self._owner() == self.owner:
                self.storage.remove(LOCK)
                self.storage.remove_if_empty()

    def check(self) -> None:
        """Raises UserError if the lock object is not this batch's."""
        if self._owner() not in (self.owner, None):
            raise UserError(
                "--output: a batch of another machine took this folder over, because this one gave "
                f"no sign of life for {GONE_SECONDS:g} s; wait for its end, then run the command "
                "again"
            )

    def _sign(self) -> bytes:
        return json.dumps({"owner": self.owner, "time": time.time()}).encode()

    def _take_over(self) -> None:
        owner, signed = self._read()
        if owner == self.owner:  # it was created, and the storage's answer was lost
            return
        ended = self.last.read_text() if self.last.exists() else None
        silent = time.time() - signed
        if owner != ended and silent < GONE_SECONDS:
            raise UserError(
                "--output: a batch of another machine writes into this folder; wait for its end, "
                f"or name another; if it was killed, try again in {GONE_SECONDS - silent:.0f} s"
            )
        self.storage.write(LOCK, self._sign())

    def _read(self) -> tuple[str | None, float]:
        """The owner and the time of its last sign of life; None and 0 without a lock object."""
        try:
            found = json.loads(self.storage.read(LOCK) or b"")
            return str(found["owner"]), float(found["time"])
        except (ValueError, LookupError, TypeError):
            return None, 0.0

    def _owner(self) -> str | None:
        return self._read()[0]

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A lock that another batch took stays its lock, and the next check tells.
            with suppress(UserError):
                if self._owner() == self.owner:
                    self.storage.write(LOCK, self._sign())
