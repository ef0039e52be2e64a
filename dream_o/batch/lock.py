"""Only one batch at a time may write into an output folder, also from different machines.

A lock file in the temporary folder refuses a second batch on this machine at once. For other
machines, the output folder has a file with the name of the owner and the time when the owner last
renewed it.
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
# The owner renews the file every BEAT_SECONDS. If it has not done so for GONE_SECONDS, it counts as
# gone. The clocks of two machines may differ by less than half of GONE_SECONDS.
BEAT_SECONDS, GONE_SECONDS = 20.0, 120.0

Check = Callable[[], None]
"""Raises UserError if the folder is not this batch's any more."""


@contextmanager
def alone(storage: Storage) -> Iterator[Check]:
    """Locks the folder for this batch until the block ends.

    If a batch on this machine was killed, its lock ends at once. The lock of a batch on another
    machine ends GONE_SECONDS after its last renewal.

    Raises:
        UserError: another batch writes into the folder; or the folder cannot be written.
    """
    digest = hashlib.sha256(storage.address.encode()).hexdigest()[:16]
    # Each user has a separate lock file, because nobody can open that of another user.
    user = os.getuid() if hasattr(os, "getuid") else 0
    here = Path(tempfile.gettempdir(), f"dream-o-batch-{user}-{digest}.lock")
    try:
        lock = filelock.FileLock(here)
        with lock.acquire(blocking=False):
            try:
                with _Held(storage, here.with_suffix(".owner")) as held:
                    yield held.check
            finally:
                # Another batch may have opened the file before it is removed. filelock sees that
                # the file has no name any more and refuses that lock.
                with suppress(OSError):  # Windows removes no open file
                    here.unlink()
    except filelock.Timeout:
        raise UserError(
            "--output: another batch writes into this folder; wait until it ends, or use another "
            "folder"
        ) from None


class _Held:
    """The lock file in the output folder, and a thread that renews it.

    Args:
        storage: the output folder.
        last: a file with the name of the last owner on this machine. That owner has ended, because
            this process now has the lock of this machine.
    """

    def __init__(self, storage: Storage, last: Path) -> None:
        self.storage = storage
        self.last = last
        self.owner = secrets.token_hex(16)
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._renew, name="batch-lock", daemon=True)

    def __enter__(self) -> "_Held":
        if not self.storage.create(LOCK, self._content()):
            self._take_over()
        self.last.write_text(self.owner)
        self.check()
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beat.join()
        with suppress(UserError, OSError):  # an error here must not replace an error of the batch
            if self._owner() == self.owner:
                self.storage.remove(LOCK)
                self.storage.remove_if_empty()
            self.last.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises UserError if the lock file is missing or has another owner."""
        if self._owner() != self.owner:
            raise UserError(
                "--output: a batch on another machine took over this folder, because this batch "
                f"did not renew {LOCK} for {GONE_SECONDS:g} s, or somebody removed that file; wait "
                "until the other batch ends, then run the command again"
            )

    def _content(self) -> bytes:
        return json.dumps({"owner": self.owner, "time": time.time()}).encode()

    def _take_over(self) -> None:
        owner, signed = self._read()
        if owner == self.owner:  # the file was created, but the storage's answer was lost
            return
        ended = self.last.read_text() if self.last.exists() else None
        silent = time.time() - signed
        if owner != ended and silent < GONE_SECONDS:
            raise UserError(
                "--output: a batch on another machine writes into this folder; wait until it "
                "ends, or use another folder; if it was killed, try again in "
                f"{GONE_SECONDS - silent:.0f} s"
            )
        self.storage.write(LOCK, self._content())

    def _read(self) -> tuple[str | None, float]:
        """The owner and the time of its last renewal; None and 0 for a missing or damaged file."""
        try:
            found = json.loads(self.storage.read(LOCK) or b"")
            return str(found["owner"]), float(found["time"])
        except (ValueError, LookupError, TypeError):
            return None, 0.0

    def _owner(self) -> str | None:
        return self._read()[0]

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # If another batch has taken the lock, it keeps it, and the next `check` raises.
            with suppress(UserError):
                if self._owner() == self.owner:
                    self.storage.write(LOCK, self._content())
