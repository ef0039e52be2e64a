"""Work done once: the least recently used results, bounded by their bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteBoundedCache(Generic[Value]):
    """Results by key; the least recently used are dropped when their bytes exceed the limit.

    Values are shared with the caller, who must not change them. One thread makes values at a time.

    Args:
        limit: bytes of all values together.
        dropped: called with the key of each value that makes room for another.
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
        """The value of a key, made if it is not there; what `make` raises is not kept.

        Args:
            key: of the value.
            make: may use the cache itself.
            size: a value's bytes; a value larger than the limit is not kept.
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
        """As `get_or_make` for a value of known size: room is made before it is loaded.

        Args:
            key: of the value.
            load: makes it.
            held: its bytes; a value larger than the limit is kept alone.
        """
        with self._lock:
            if key not in self._values:
                self._make_room(held)
                self._keep(key, load(), held)
            return self._used(key)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._values.clear()
            self.bytes = 0

    def _used(self, key: Hashable) -> Value:
        self._values.move_to_end(key)
        return self._values[key][0]

    def _keep(self, key: Hashable, value: Value, held: int) -> None:
        if key not in self._values:  # `make` may have put it there
            self._make_room(held)
            self._values[key] = value, held
            self.bytes += held

    def _make_room(self, held: int) -> None:
        while self._values and self.bytes + held > self.limit:
            key, entry = self._values.popitem(last=False)
            self.bytes -= entry[1]
            del entry  # nothing holds the value when `dropped` gives memory back
            self._dropped(key)
