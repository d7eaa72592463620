from pathlib import Path
from typing import Any

import pytest
import yaml


class Unique(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, as Compose does; PyYAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice among {keys}"
        return super().construct_mapping(node, deep)


@pytest.fixture
def services() -> dict[str, Any]:
    """The services of compose.yaml."""
    file = Path(__file__).parents[2] / "docker/compose.yaml"
    found: dict[str, Any] = yaml.load(file.read_text(), Unique)["services"]
    return found
