"""A cache of results that is bounded by their bytes and drops the least recently used."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteBoundedCache(Generic[Value]):
    """Values by key; drops the least recently used when all values together exceed the limit.

    Callers get the cached value itself and must not change it. Only one thread at a time makes a
    value.

    Args:
        limit: the most bytes of all values together.
        dropped: called with the key of each value that was dropped to make room.
    """

    def __init__(
        self, limit: int, dropped: Callable[[Hashable], object] = lambda key: None
    ) -> None:
        self.limit = limit
        self.bytes = 0
        self._dropped = dropped
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._values))

    def get_or_make(
        self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]
    ) -> Value:
        """The value of a key, made if it is not cached; nothing is cached if `make` raises.

        Args:
            key: the value's key.
            make: makes the value; it may use this cache too.
            size: gives a value's bytes; a value larger than the limit is not cached.
        """
        with self._lock:
            if key not in self._values:
                value = make()
                held = size(value)
                if held > self.limit:
                    return value
                self._keep(key, value, held)
            return self._used(key)

    def get_or_load(self, key: Hashable, load: Callable[[], Value], held: int) -> Value:
        """Like `get_or_make` for a value of known size: makes room before loading it.

        Args:
            key: the value's key.
            load: makes the value.
            held: the value's bytes; a value larger than the limit is cached alone.
        """
        with self._lock:
            if key not in self._values:
                self._make_room(held)
                self._keep(key, load(), held)
            return self._used(key)

    def clear(self) -> None:
        """Drops all values."""
        with self._lock:
            self._values.clear()
            self.bytes = 0

    def _used(self, key: Hashable) -> Value:
        self._values.move_to_end(key)
        return self._values[key][0]

    def _keep(self, key: Hashable, value: Value, held: int) -> None:
        if key not in self._values:  # `make` may have cached it
            self._make_room(held)
            self._values[key] = value, held
            self.bytes += held

    def _make_room(self, held: int) -> None:
        while self._values and self.bytes + held > self.limit:
            key, entry = self._values.popitem(last=False)
            self.bytes -= entry[1]
            del entry  # so that nothing references the value when `dropped` frees memory
            self._dropped(key)
