"""Whether each actor of a run could load its model, as a small file in the output folder.

An actor that cannot load the model ends the batch only if no other actor can. So a machine with a
damaged bundle or a full disk does not stop the others.
"""

import itertools
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress

from dream_o.batch.storage import HIDDEN, Storage, StorageError

ACTORS = f"{HIDDEN}/actors"
LOADING, WORKS, FAILED = "loading", "works", "failed"
# An actor that cannot load the model waits so long for other actors to start.
APPEAR_SECONDS = 60.0
# An actor that is LOADING or WORKS and has written nothing for so long counts as killed.
SILENT_SECONDS = 1800.0
# Seconds after which an actor writes WORKS again.
RENEW_SECONDS = 60.0
# Seconds between an actor's attempts to load the model; the last number is repeated.
PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)


def pauses() -> Iterator[float]:
    """The seconds to wait before each further attempt to load; endless."""
    return itertools.chain(PAUSES, itertools.repeat(PAUSES[-1]))


class ActorState:
    """The state of one actor, which the other actors of its run can read.

    Args:
        storage: the output folder.
        run: the name of the run.
        expected: the number of actors that the run starts with.
    """

    def __init__(self, storage: Storage, run: str, expected: int) -> None:
        self.storage = storage
        self.folder = f"{ACTORS}/{run}"
        self.expected = expected
        self.path = f"{self.folder}/{secrets.token_hex(8)}"
        self._started = time.time()
        self._written = 0.0

    def write(self, state: str) -> None:
        """Writes LOADING, WORKS or FAILED."""
        self._written = time.time()
        self.storage.write(self.path, json.dumps([state, self._written]).encode())

    def renew(self) -> None:
        """Writes WORKS again if RENEW_SECONDS have passed; ignores a storage that fails."""
        if time.time() - self._written > RENEW_SECONDS:
            with suppress(StorageError):  # a later call tries again
                self.write(WORKS)

    def no_actor_can_load(self) -> bool:
        """Whether all actors have failed, and no further one is expected to start."""
        states = [state for state in map(self._state, self.storage.files(self.folder)) if state]
        if any(state != FAILED for state in states):
            return False
        return len(states) >= self.expected or time.time() - self._started > APPEAR_SECONDS

    def _state(self, path: str) -> str:
        """The state in an actor's file; empty if it is damaged or the actor counts as killed."""
        try:
            state, written = json.loads(self.storage.read(path) or b"")
        except ValueError:
            return ""
        is_gone = state != FAILED and time.time() - written > SILENT_SECONDS
        return "" if is_gone else str(state)
