"""What is installed from a wheel, away from this repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WHERE = "import dqn, flows, serving; print(*(module.__path__[0] for module in (dqn, flows, serving)))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel in it; its dependencies are this interpreter's."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    source = directory / "source"
    files = subprocess.check_output(("git", "ls-files", "-z", "dqn", "flows", "serving"), cwd=ROOT, text=True)
    for file in (
        *files.rstrip("\0").split("\0"),
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):  # a build leaves files in its source
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((ROOT / file).read_bytes())
    options = ("--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run((*pip, "wheel", *options, "--wheel-dir", directory, source), check=True, timeout=300)
    (wheel,) = directory.glob("*.whl")
    subprocess.run((*pip, "install", "--no-deps", "--no-index", "--target", directory / "site", wheel), check=True)
    return directory / "site"


def run(installed: Path, *command: str | Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        (sys.executable, *command), cwd=installed.parent, env=environment, capture_output=True, text=True, timeout=120
    )


def test_it_is_the_wheel_that_is_imported_and_it_has_the_pages(installed: Path) -> None:
    homes = run(installed, "-c", WHERE).stdout.split()
    assert homes == [str(installed / name) for name in ("dqn", "flows", "serving")]
    for static in ("dqn/cards/static", "serving/page/static"):
        packed, kept = (
            {path.relative_to(folder) for path in folder.rglob("*")} for folder in (installed / static, ROOT / static)
        )
        assert packed == kept
    assert (installed / "dqn/py.typed").exists()


def test_the_script_trains_and_serves(installed: Path) -> None:
    trained = run(installed, installed / "bin/dqn", "train", "--env-id", "CartPol-v1")
    assert (trained.returncode, trained.stdout) == (2, "")
    assert "did you mean CartPole-v1" in trained.stderr
    served = run(installed, installed / "bin/dqn", "serve", "--model", "nowhere.onnx", "--help")
    assert served.returncode == 0
    assert "Play a policy" in served.stdout
