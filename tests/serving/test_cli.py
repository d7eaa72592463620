import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import main
from tests.policies import BALANCES, FALLS, linear_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "p.onnx").write_bytes(linear_model(FALLS))
    return str(tmp_path / "p.onnx")


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
def test_record_writes_a_video_and_prints_its_path(
    model: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "videos" / f"episode.{suffix}"
    assert main(["record", "--model", model, "--out", str(out), "--seed", "2", "--push", "3:20"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert out.stat().st_size > 1000


def test_record_without_pyav_writes_a_gif_and_says_why(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--model", model]) == 0
    printed = capsys.readouterr()
    assert "needs PyAV" in printed.err
    path = Path(printed.out.splitlines()[-1])
    assert path.suffix == ".gif"
    assert path.is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["record", "--model", "nowhere.onnx"], "there is no file nowhere.onnx"),
        (["record", "--model", "champion"], "expected models:/NAME@ALIAS"),
        (["record", "--model", "MODEL", "--push", "abc"], "--push takes STEP:NEWTONS"),
        (["record", "--model", "MODEL", "--out", "x.avi"], "--out should end in .mp4, .webm or .gif"),
        (["serve", "--model", "MODEL", "--host", "0.0.0.0"], "give it a --token"),
    ],
)
def test_mistakes_get_one_sentence(
    model: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVING_TOKEN", raising=False)
    assert main([model if word == "MODEL" else word for word in arguments]) == 1
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("arguments", [["dance"], ["--port", "x"], ["record", "--seed", "-1"]])
def test_wrong_arguments_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_watch_without_a_display_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(linear_model(BALANCES))
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment.pop("SDL_VIDEODRIVER", None)
    result = subprocess.run(
        [sys.executable, "-m", "serving", "watch", "--model", str(tmp_path / "p.onnx"), "--episodes", "1"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 1
    assert "there is no display here" in result.stderr
    assert "make record" in result.stderr


def test_a_registry_that_is_not_there_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    monkeypatch.chdir(tmp_path)
    assert main(["record"]) == 1
    assert "run `make train`" in capsys.readouterr().err
