"""Values by version of which a bounded number is kept, however many versions there are."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")
KEPT_VERSIONS: Final = 8
OTHER: Final = "other"
"""What stands in a version's place for all that are not kept."""


class Recent(Generic[Value]):
    """The values of the versions that were used last, and one in which those that leave are summed up."""

    def __init__(self, make: Callable[[], Value], add: Callable[[Value, Value], None]) -> None:
        self._make = make
        self._add = add
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._other: Value | None = None

    def of(self, version: str) -> Value:
        """A version's value, which is kept from now on; a new one if it is not kept yet."""
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
        """Those that are kept."""
        return list(self._values)

    def items(self) -> Iterator[tuple[str, Value]]:
        """Versions and their values, and `OTHER` where a version has left."""
        yield from list(self._values.items())
        if self._other is not None:
            yield OTHER, self._other
