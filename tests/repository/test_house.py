import dataclasses
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from msgspec import Struct

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


def test_schemas_are_frozen() -> None:
    kinds = [kind for module in modules(serving) for kind in vars(module).values() if isinstance(kind, type)]
    assert not [
        kind for kind in kinds if issubclass(kind, Struct) and not kind.__struct_config__.frozen and kind != Struct
    ]


def test_the_serving_image_has_every_file_of_dqn_that_serving_imports() -> None:
    listing = (
        "import importlib, json, pkgutil, serving, sys\n"
        "for module in pkgutil.walk_packages(serving.__path__, 'serving.'): importlib.import_module(module.name)\n"
        "print(json.dumps([m.__file__ for name, m in sys.modules.items() if name.split('.')[0] == 'dqn']))"
    )
    imported = subprocess.run((sys.executable, "-c", listing), capture_output=True, text=True, check=True).stdout
    root = Path(dqn.__path__[0]).parent
    files = {str(Path(file).relative_to(root)) for file in json.loads(imported)}
    dockerfile = (root / "docker/serving.Dockerfile").read_text()
    copied = re.findall(r"^COPY (dqn/\S+) ", dockerfile, re.MULTILINE)
    assert all(any(Path(file).is_relative_to(path) for path in copied) for file in files)
    assert all(any(Path(file).is_relative_to(path) for file in files) for path in copied)
