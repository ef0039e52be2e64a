"""What the actors of a run say about loading their model, as small files in the output folder.

An actor that cannot load it ends the batch only if no other can: one machine with a damaged bundle
or a full disk must not stop the others.
"""

import itertools
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress

from dream_o.batch.storage import HIDDEN, Storage
from dream_o.errors import UserError

ACTORS = f"{HIDDEN}/actors"
LOADING, WORKS, FAILED = "loading", "works", "failed"
# How long an actor that cannot load waits for others to appear, and for one that loads or works and
# says nothing: it may have been killed.
APPEAR_SECONDS, SILENT_SECONDS = 60.0, 1800.0
# Seconds after which an actor that works says so again.
RENEW_SECONDS = 60.0
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
        self._said = 0.0

    def say(self, state: str) -> None:
        """Writes LOADING, WORKS or FAILED for the others to read."""
        self._said = time.time()
        self.storage.write(self.path, json.dumps([state, self._said]).encode())

    def renew(self) -> None:
        """Writes WORKS again if the last time is long ago; a storage that fails is asked later."""
        if time.time() - self._said > RENEW_SECONDS:
            with suppress(UserError):
                self.say(WORKS)

    def is_hopeless(self) -> bool:
        """Whether no actor works, and none that is expected may still come to work."""
        states = [state for state in map(self._state, self.storage.files(self.folder)) if state]
        if any(state != FAILED for state in states):
            return False
        return len(states) >= self.expected or time.time() - self._begun > APPEAR_SECONDS

    def _state(self, path: str) -> str:
        """An actor's state; empty for one that is silent so long that it was probably killed."""
        try:
            state, said = json.loads(self.storage.read(path) or b"")
        except ValueError:
            return ""
        is_gone = state != FAILED and time.time() - said > SILENT_SECONDS
        return "" if is_gone else str(state)
