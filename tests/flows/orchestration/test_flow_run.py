from pathlib import Path

import pytest

from dqn.config import ConfigError
from flows.orchestration.flow_run import api_is_named, deployment_id, flow_run_id


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)


@pytest.mark.parametrize("file", [".env", "prefect.toml", "pyproject.toml"])
def test_a_file_that_cannot_be_read_is_one_sentence(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / file
    path.write_bytes("NAME=Jürgen".encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{path} is not UTF-8, and may name a Prefect API: save it as UTF-8"):
        api_is_named()
    path.unlink()
    path.mkdir()
    assert not api_is_named()
    assert f"{path} is a directory: no settings are read from it" in caplog.text


def test_outside_a_flow_run_there_is_none() -> None:
    assert flow_run_id() is None
    assert deployment_id() is None


def test_the_environment_names_an_api_or_says_that_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not api_is_named()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert api_is_named()
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert not api_is_named()


@pytest.mark.parametrize(
    ("file", "content", "asked"),
    [
        ("home/profiles.toml", "", True),
        (".env", "PREFECT_API_URL=http://127.0.0.1:4200/api", True),
        ("prefect.toml", "[api]\nurl = 'http://127.0.0.1:4200/api'", True),
        ("pyproject.toml", "[tool.prefect.api]\nurl = 'http://127.0.0.1:4200/api'", True),
        ("pyproject.toml", "dependencies = ['prefect>=3']", False),
        (".env", "MLFLOW_TRACKING_URI=http://127.0.0.1:5000", False),
    ],
)
def test_prefect_is_asked_where_a_file_may_name_one(
    file: str, content: str, asked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    import prefect.settings

    class Asked:
        def value(self) -> str:
            return "http://127.0.0.1:4200/api"

    monkeypatch.setattr(prefect.settings, "PREFECT_API_URL", Asked())
    assert api_is_named() is asked
