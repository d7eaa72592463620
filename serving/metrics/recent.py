"""Values by version, for a bounded number of versions."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")
KEPT_VERSIONS: Final = 8
OTHER: Final = "other"
"""Label for all versions that are not kept."""


class Recent(Generic[Value]):
    """The values of the versions that were used last, and one sum of the values of all others."""

    def __init__(self, make: Callable[[], Value], add: Callable[[Value, Value], None]) -> None:
        self._make = make
        self._add = add
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._other: Value | None = None

    def of(self, version: str) -> Value:
        """The value of a version, a new one if there is none. The version then counts as the one used last."""
        value = self._values.get(version)
        if value is not None:
            self._values.move_to_end(version)
            return value
        value = self._values[version] = self._make()
        if len(self._values) > KEPT_VERSIONS:
            _, oldest = self._values.popitem(last=False)
            self._other = self._make() if self._other is None else self._other
            self._add(self._other, oldest)
        return value

    def versions(self) -> list[str]:
        """The versions that are kept."""
        return list(self._values)

    def items(self) -> Iterator[tuple[str, Value]]:
        """Versions and their values, with `OTHER` last if a version has left."""
        yield from list(self._values.items())
        if self._other is not None:
            yield OTHER, self._other
