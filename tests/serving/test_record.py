"""`python -m serving record`: its video, and failures to write it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.episodes.replay import Replay
from tests.serving.conftest import LocalRegistry


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
def test_record_writes_a_video_and_prints_its_path(
    model_path: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "videos" / f"episode.{suffix}"
    assert main(["record", "--model", model_path, "--out", str(out), "--seed", "2", "--push", "3:20"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert out.stat().st_size > 1000


def test_record_plays_the_seed_and_the_pushes_that_are_asked_for(
    model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded: list[Replay] = []

    def to_video(replay: Replay, kind: str) -> bytes:
        recorded.append(replay)
        return b"video"

    monkeypatch.setattr("serving.__main__.to_video", to_video)
    asked: list[tuple[tuple[str, ...], int, list[tuple[int, float]]]] = [
        ((), 0, []),
        (("--seed", "7"), 7, []),
        (("--seed", "7", "--push", "3:20", "--push", "5:-40.5"), 7, [(3, 20.0), (5, -40.5)]),
    ]
    for options, seed, pushes in asked:
        assert main(["record", "--model", model_path, "--out", str(tmp_path / "a.mp4"), *options]) == 0
        replay = recorded[-1]
        assert (replay.seed, [(push.step, push.force) for push in replay.pushes]) == (seed, pushes)
        assert f"seed {seed}: return {replay.episodic_return:g}" in capsys.readouterr().out
    assert len({tuple(replay.observations) for replay in recorded}) == 3, "each is another episode"


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("out", "step", "why"),
    [
        ("a.gif", "pathlib.Path.write_bytes", "No space left on device"),
        ("a.gif", "pathlib.Path.replace", "No space left on device"),
        ("new/a.gif", "pathlib.Path.mkdir", "No space left on device"),
        ("p.onnx/a.gif", "", "File exists"),
        ("p.onnx/deeper/a.gif", "", "Not a directory"),
        ("folder.gif", "", "Is a directory"),
    ],
)
def test_a_video_that_cannot_be_written_is_reported_and_leaves_older_files_alone(
    out: str,
    step: str,
    why: str,
    model_path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "a.gif").write_bytes(b"an older one")
    before = sorted(tmp_path.rglob("*"))
    if step:
        monkeypatch.setattr(step, no_room)
    path = tmp_path / out
    assert main(["record", "--model", model_path, "--out", str(path)]) == 1
    assert (
        capsys.readouterr().err
        == f"error: cannot write {path} ({why}): make room there, or name another file with --out\n"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a.gif").read_bytes() == b"an older one"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, Linux's file that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_an_error_without_a_traceback(
    unbuffered: str, model_path: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "serving", "record", "--model", model_path, "--out", str(tmp_path / "a.gif")]
    with open("/dev/full", "w") as full:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.stderr == "error: cannot write what was to be printed: No space left on device\n"
    assert done.returncode == 1


def test_a_disk_without_room_for_copies_is_reported_and_the_version_recorded(
    registry: LocalRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").touch()
    out = tmp_path / "a.gif"
    champion = "models:/dqn-CartPole-v1@challenger"
    assert main(["record", "--model", champion, "--cache-dir", str(tmp_path / "models"), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"fetched versions cannot be kept in {tmp_path}/models/")
    assert "make room there, or name another --cache-dir" in said
    assert said.count("\n") == 1
    assert out.stat().st_size > 1000


@pytest.mark.parametrize("address", ["s3://b/p.onnx", "https://h/p.onnx", "file:///p.onnx", "gs://b/p", "runs:/1/p"])
def test_a_model_at_another_address_is_refused_as_it_was_given(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--model", address]) == 1
    printed = capsys.readouterr().err
    assert f"a .onnx file of this machine, got '{address}': download it and name the file" in printed


def test_record_without_pyav_writes_a_gif_and_says_why(
    model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--model", model_path]) == 0
    printed = capsys.readouterr()
    assert "needs PyAV" in printed.err
    path = Path(printed.out.splitlines()[-1])
    assert path.suffix == ".gif"
    assert path.is_file()
