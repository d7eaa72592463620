from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def services() -> dict[str, Any]:
    """The services of compose.yaml."""
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "docker/compose.yaml").read_text())["services"]
    return found
