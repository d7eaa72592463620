import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archive import ARTIFACTS, MANIFEST, verify, versions
from backup import backup, main, restore
from engine import StackError
from stack import Stack

from tests.support.docker.backups import asked, containers, stack

__all__ = ["stack"]  # the fixture


def test_a_backup_holds_the_databases_and_then_the_artifacts(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")
    assert verify(path) == [ARTIFACTS, "mlflow.dump", "prefect.dump"]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        contents = {name: file.read() for name in archive.getnames() if (file := archive.extractfile(name))}
    assert contents["mlflow.dump"] == b"dump of mlflow"
    assert contents["prefect.dump"] == b"dump of prefect"
    assert contents[ARTIFACTS] == b"artifacts"
    order = [what for what, _ in asked(tmp_path) if "pg_dump" in what or " tar " in what]
    assert [" tar " in what for what in order] == [False, False, True]


@pytest.mark.parametrize("broken", ["pg_dump", "SELECT datname"])
def test_a_backup_that_fails_leaves_nothing(
    broken: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", broken)
    with pytest.raises(StackError, match="failed: it is broken"):
        backup(stack, tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_stack_that_does_not_run_has_no_backup(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERS", containers(running=False))
    with pytest.raises(StackError, match="postgres of the stack does not run: `make up` starts it"):
        backup(stack, tmp_path / "backups")
    assert not (tmp_path / "backups").exists()


def test_artifacts_in_a_bucket_stay_there(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://bucket/prefix")
    path = backup(stack, tmp_path / "backups")
    assert verify(path) == ["mlflow.dump", "prefect.dump"]
    with tarfile.open(path) as archive:
        manifest = archive.extractfile(MANIFEST)
        assert manifest is not None
        assert json.load(manifest)["artifacts"] == "s3://bucket/prefix"
    restore(stack, path)
    assert not any(" run " in what for what, _ in asked(tmp_path))


@pytest.mark.parametrize("tool", ["mlflow", "prefect", "postgres"])
def test_a_backup_of_newer_tools_is_refused_and_one_of_older_tools_is_not(
    tool: str, stack: Stack, tmp_path: Path
) -> None:
    here = versions()
    assert all(here[name] for name in ("mlflow", "prefect", "postgres"))
    path = backup(stack, tmp_path / "backups")
    rewritten(path, manifest_with(versions={**here, tool: "999.1"}, git_commit="abc"))
    (tmp_path / "asked").unlink()
    with pytest.raises(StackError, match=rf"written by {tool} 999\.1 at commit abc, and this checkout has {tool} \d"):
        restore(stack, path)
    assert not (tmp_path / "asked").exists()
    for known in ({**here, tool: "1.0"}, {}):
        rewritten(path, manifest_with(versions=known))
        assert verify(path)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with tarfile.open(path) as archive:
        contents = {name: file.read() for name in archive.getnames() if (file := archive.extractfile(name))}
    change(contents)
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            part = path.parent / "part"
            part.write_bytes(content)
            archive.add(part, name)


def manifest_with(**values: object) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        contents[MANIFEST] = json.dumps({**json.loads(contents[MANIFEST]), **values}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda contents: contents.update({"mlflow.dump": b"other"}), "mlflow.dump in .* is damaged"),
        (lambda contents: contents.pop("mlflow.dump"), "its manifest lists artifacts.tar, mlflow.dump"),
        (lambda contents: contents.update({"../../evil.dump": b"x"}), "evil.dump and its manifest lists"),
        (manifest_with(format=2), "has format 2 and this version reads 1"),
        (manifest_with(sha256={"../x": "0"}), "its manifest lists ../x"),
        (manifest_with(sha256=7), "is no whole backup"),
        (manifest_with(versions=7), "is no whole backup"),
        (manifest_with(versions={"mlflow": 7}), "is no whole backup"),
        (lambda contents: contents.update({MANIFEST: b"{"}), "is no whole backup"),
        (lambda contents: contents.pop(MANIFEST), "is no backup: its first entry is not manifest.json"),
    ],
)
def test_what_is_no_whole_backup_is_refused_before_anything_is_touched(
    change: Callable[[dict[str, bytes]], None], sentence: str, stack: Stack, tmp_path: Path
) -> None:
    path = backup(stack, tmp_path / "backups")
    rewritten(path, change)
    (tmp_path / "asked").unlink()
    with pytest.raises(StackError, match=sentence):
        restore(stack, path)
    assert not (tmp_path / "asked").exists()


def test_a_name_that_leaves_the_directory_is_refused_though_it_is_listed(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")

    def change(contents: dict[str, bytes]) -> None:
        contents["../evil.dump"] = b"x"
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items() if name != MANIFEST}
        manifest_with(sha256=digests)(contents)

    rewritten(path, change)
    with pytest.raises(StackError, match="evil"):
        verify(path)


def test_a_torn_or_missing_file_is_refused(stack: Stack, tmp_path: Path) -> None:
    path = backup(stack, tmp_path / "backups")
    whole = path.read_bytes()
    for length in (0, 100, 700, 1600, 3000):
        path.write_bytes(whole[:length])
        with pytest.raises(StackError):
            verify(path)
    with pytest.raises(StackError, match=r"cannot be read \(No such file"):
        verify(tmp_path / "none.tar")
    with pytest.raises(StackError, match="cannot be read"):
        verify(tmp_path)


def test_nothing_is_replaced_unasked(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = backup(stack, tmp_path / "backups")
    monkeypatch.setattr("stack.ENV_FILE", stack.env_file)
    (tmp_path / "asked").unlink()
    assert main(["restore", str(path)]) == 1
    assert "Add --yes to mean it" in capsys.readouterr().err
    assert main(["restore"]) == 1
    assert "make restore FILE=" in capsys.readouterr().err
    assert not (tmp_path / "asked").exists()
