"""Work done once: the least recently used results, bounded by their bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteBoundedCache(Generic[Value]):
    """Results by key; the least recently used go first when their bytes are over the limit.

    Values are shared with the caller: nobody may change one. For one thread at a time.

    Args:
        limit: bytes in all; a value that is larger alone is never kept.
        size: a value's bytes.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self.limit = limit
        self.bytes = 0
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made when it is not there; what `make` raises is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        bytes_ = self._size(value)
        if bytes_ <= self.limit:
            # Made first and let in last: `make` itself may have used the cache.
            if key in self._values:
                self.bytes -= self._size(self._values.pop(key))
            self._values[key] = value
            self.bytes += bytes_
        while self.bytes > self.limit:
            _, oldest = self._values.popitem(last=False)
            self.bytes -= self._size(oldest)
        return value

    def clear(self) -> None:
        """Forgets everything."""
        self._values.clear()
        self.bytes = 0
