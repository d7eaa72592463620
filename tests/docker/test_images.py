"""What an image needs is among what its build may read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def local_imports(name: str) -> set[str]:
    """The modules of `docker/` that one of them imports, directly or not, and itself."""
    found, open_names = set[str](), {name}
    while open_names:
        found.add(current := open_names.pop())
        for node in ast.walk(ast.parse((DOCKER / f"{current}.py").read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            open_names |= {module for module in modules if (DOCKER / f"{module}.py").exists()} - found
    return found


@pytest.mark.parametrize("program", ["deploy"])
def test_an_image_has_every_module_that_its_program_imports(program: str) -> None:
    allowed = set((ROOT / ".dockerignore").read_text().splitlines())
    needed = {f"!docker/{name}.py" for name in local_imports(program)}
    assert len(needed) > 1
    assert needed <= allowed
