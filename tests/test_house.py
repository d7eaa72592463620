import dataclasses
import importlib
import pkgutil
from types import ModuleType

import pytest

import dqn
import flows
import serving

STATE = {"Adaptation", "Player", "Watermark", "_Endpoint", "_Statistics", "_Work"}
"""Classes that hold what changes; every other dataclass is a value."""
ROWS = {"Operation"}
"""Values that are written as the rows of a table, the first columns without a name."""


def modules(package: ModuleType) -> list[ModuleType]:
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("package", [dqn, flows, serving], ids=lambda package: package.__name__)
def test_values_are_frozen_and_their_fields_are_named(package: ModuleType) -> None:
    loose = [
        f"{module.__name__}.{name}"
        for module in modules(package)
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == module.__name__
        if name not in STATE
        if not value.__dataclass_params__.frozen  # type: ignore[attr-defined]
        or (name not in ROWS and not all(field.kw_only for field in dataclasses.fields(value) if field.init))
    ]
    assert not loose
