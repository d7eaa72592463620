import errno
import io
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from serving.__main__ import main
from serving.arguments import UsageError, parse
from serving.episodes.replay import Replay
from serving.errors import UnknownModelError
from serving.models.cache import Cache
from serving.models.glance import Registered, glance
from serving.models.source import Version
from tests.serving.conftest import LocalRegistry
from tests.support.serving.policies import BALANCES, FALLS, linear_model


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


def test_record_plays_the_seed_and_the_pushes_that_are_asked_for(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
        assert main(["record", "--model", model, "--out", str(tmp_path / "a.mp4"), *options]) == 0
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
def test_a_video_that_cannot_be_written_is_said_and_costs_none_that_is_there(
    out: str,
    step: str,
    why: str,
    model: str,
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
    assert main(["record", "--model", model, "--out", str(path)]) == 1
    assert (
        capsys.readouterr().err
        == f"error: cannot write {path} ({why}): make room there, or name another file with --out\n"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a.gif").read_bytes() == b"an older one"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, Linux's file that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_cannot_be_printed_is_no_traceback(unbuffered: str, model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving", "record", "--model", model, "--out", str(tmp_path / "a.gif")]
    with open("/dev/full", "w") as full:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.stderr == "error: cannot write what was to be printed: No space left on device\n"
    assert done.returncode == 1


def test_a_disk_without_room_for_copies_is_said_and_the_version_recorded(
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
        (["serve", "--model", "MODEL", "--host", "0.0.0.0"], "give it a --token"),
    ],
)
def test_mistakes_get_one_sentence(
    model: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVING_TOKEN", raising=False)
    assert main([model if word == "MODEL" else word for word in arguments]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert sentence in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dance"], "there is no verb 'dance'; there are serve, watch and record"),
        (["srve"], "there is no verb 'srve'; did you mean serve?"),
        (["policy.onnx"], "policy.onnx is no verb; did you mean --model policy.onnx?"),
        (["--modle", "x"], "serve has no option --modle; did you mean --model?"),
        (["--prt=9000"], "serve has no option --prt; did you mean --port?"),
        (["--env", "x"], "serve has no option --env; did you mean --allow-env?"),
        (["--host", "::1", "-p", "1"], "serve has no option -p; --help lists all"),
        (["--por", "9000"], "serve has no option --por; did you mean --port?"),
        (["record", "--port", "9000"], "record has no option --port; --help lists all"),
        (["watch", "--sed", "3"], "watch has no option --sed; did you mean --seed?"),
        (["record", "now"], "now belongs to no option of record; --help lists all"),
        (["--port"], "--port: expected one argument"),
        (["--port", "x"], "--port: a port is a number from 0 (any free one) to 65535, got 'x'"),
        (["record", "--seed", "x"], "--seed: a seed is a whole number from 0 to 2147483647, got 'x'"),
        (["watch", "--episodes", "0"], "--episodes: it is a whole number from 1, got '0'"),
        (["--port", "1", "--port=2"], "--port is given 2 times: give it once"),
        (["--no-show", "--host", "::1", "--no-show", "--no-show"], "--no-show is given 3 times: give it once"),
        (["watch", "--model=a.onnx", "--seed", "1", "--model", "b.onnx"], "--model is given 2 times: give it once"),
        (["record", "--out", "x.avi"], "--out: should end in .mp4, .webm or .gif, got 'x.avi'"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_names(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize("verb", ["serve", "watch", "record"])
def test_whatever_cannot_be_repeated_is_refused_the_second_time(verb: str) -> None:
    options = {option for option in help_of(verb) if option not in ("--help", "--allow-env", "--push")}
    assert len(options) > 3
    for option in options:
        value = [] if option == "--no-show" else ["1.gif" if option == "--out" else "1"]
        with pytest.raises(UsageError, match=f"^{option} is given 2 times: give it once"):
            parse([verb, option, *value, option, *value])
    parse([verb, "--allow-env", "a", "--allow-env=b"])


def help_of(verb: str) -> set[str]:
    """The options that a verb's help lists."""
    with pytest.raises(SystemExit), redirect_stdout(io.StringIO()) as said:
        parse([verb, "--help"])
    return set(re.findall(r"^  (?:-h, )?(--[\w-]+)", said.getvalue(), re.MULTILINE))


@pytest.mark.parametrize("verb", ["serve", "watch", "record"])
@pytest.mark.parametrize(
    ("admitted", "sentence"),
    [
        ("nopkg:Foo-v0", "environment 'nopkg:Foo-v0' cannot be made: No module named 'nopkg'. Expected"),
        (
            "tests.support.dqn.registers_on_import:Foo-v0",
            "environment 'tests.support.dqn.registers_on_import:Foo-v0' cannot be made: ",
        ),
        ("Foo-v0", "environment 'Foo-v0' cannot be made: "),
        (":Foo-v0", "environment ':Foo-v0' cannot be made: "),
        (
            "broken_module:Foo-v0",
            "the module of 'broken_module:Foo-v0' cannot be imported (ZeroDivisionError: division",
        ),
        ("ending_module:Foo-v0", "the module of 'ending_module:Foo-v0' cannot be imported (SystemExit: 3)"),
    ],
)
@pytest.mark.parametrize("variable", [False, True])
def test_an_environment_that_cannot_be_admitted_is_refused_at_the_start(
    verb: str,
    admitted: str,
    sentence: str,
    variable: bool,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "ending_module.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("serving.__main__.serve", lambda *_: pytest.fail("it was served"))
    arguments = [] if variable else ["--allow-env", admitted]
    monkeypatch.setenv("SERVING_ALLOWED_ENVS", f"CartPole-v1, {admitted} ," if variable else "")
    assert main([verb, "--model", model, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --allow-env: {sentence}")
    assert said.count("\n") == 1


def test_an_environment_that_another_ones_module_registers_is_admitted(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.__main__.serve", lambda *_: 0)
    admitted = ("RegisteredOnImport-v0", "tests.support.dqn.registers_on_import:RegisteredOnImport-v0", "CartPole-v1")
    assert main(["--model", model, *(word for env_id in admitted for word in ("--allow-env", env_id))]) == 0


@pytest.mark.parametrize(
    "wrong", ["abc", "100", "100:", ":60", "1.5:60", "-1:60", "5000000:60", "1:nan", "1:inf", "1:1e9"]
)
def test_a_push_is_refused_with_an_example(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", f"--push={wrong}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --push: takes STEP:NEWTONS, as in 100:60 (a step from 0 to ")
    assert error.endswith(f"200 N at most), got {wrong!r}\n")


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["record", "--seed", "2147483647"], {"seed": 2**31 - 1}),
        (["watch", "--episodes", "1"], {"episodes": 1, "seed": 0}),
    ],
)
def test_the_greatest_and_the_least_are_numbers_too(arguments: list[str], options: dict[str, int]) -> None:
    verb, parsed = parse(arguments)
    assert verb == arguments[0]
    assert vars(parsed).items() >= options.items()


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry as MLflow's tables have it: version 3 of one model, and an alias; version 2 was deleted."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("CREATE TABLE registered_models (name)")
        store.execute("CREATE TABLE model_versions (name, version, current_stage)")
        store.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        store.execute("INSERT INTO registered_models VALUES ('dqn-Acrobot-v1')")
        store.execute(
            "INSERT INTO model_versions VALUES ('dqn-Acrobot-v1', 3, 'None'), ('dqn-Acrobot-v1', 2, 'Deleted_Internal')"
        )
        store.execute("INSERT INTO registered_model_aliases VALUES ('dqn-Acrobot-v1', 'challenger', 3)")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("dqn-Acrobot-v1/2", "model dqn-Acrobot-v1 has no version 2 but 3, @challenger; name another one with --model"),
        ("dqn-Acrobot-v1@champion", "model dqn-Acrobot-v1 has no alias 'champion' but 3, @challenger; name another"),
        (
            "dqn-Acrobot-v1@champion",
            "@challenger; name another one with --model, or run `python -m flows train --preset acro",
        ),
        ("dqn-x~2Y-v0/3", "the registry has no model dqn-x~2Y-v0 but dqn-Acrobot-v1: run `python -m flows train"),
        ("dqn-x~2Y-v0/3", "run `python -m flows train --env-id x:Y-v0` to train and promote one"),
        (
            "n/3",
            "the registry has no model n but dqn-Acrobot-v1: training registers models as dqn-ENVIRONMENT, so name",
        ),
    ],
)
def test_a_version_that_is_not_there_is_refused_without_mlflow(
    tables: Path, model: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serving.__main__.resolve", lambda *_: pytest.fail("MLflow was asked"))
    assert main(["record", "--model", f"models:/{model}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_what_a_glance_finds_or_cannot_tell_is_left_to_mlflow(
    tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*_: object) -> None:
        raise UnknownModelError("MLflow was asked")

    monkeypatch.setattr("serving.__main__.resolve", asked)
    for model in ("dqn-Acrobot-v1/3", "dqn-Acrobot-v1@challenger"):
        assert main(["record", "--model", f"models:/{model}"]) == 1
        assert capsys.readouterr().err == "error: MLflow was asked\n"
    cache = Cache(tables / "models", "dqn-Acrobot-v1")
    cache.remember_played("2", Version(number="2", source=""))  # while the registry had it
    main(["record", "--model", "models:/dqn-Acrobot-v1/2"])
    assert capsys.readouterr().err == "error: MLflow was asked\n"
    assert glance("dqn-Acrobot-v1") == Registered(models=("dqn-Acrobot-v1",), versions=("3",), aliases=("challenger",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tables / 'mlflow.db'}")
    assert glance("dqn-Acrobot-v1") is not None
    for uri in ("http://127.0.0.1:9", f"sqlite:///{tables / 'none.db'}"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert glance("dqn-Acrobot-v1") is None
    assert not (tables / "none.db").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with closing(sqlite3.connect("mlflow.db")) as store:
        store.execute("ALTER TABLE model_versions DROP COLUMN current_stage")
    assert glance("dqn-Acrobot-v1") is None
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    assert glance("dqn-Acrobot-v1") is None


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
    assert "run `python -m flows train`" in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Options of the application that `serve` would run with these arguments, and the address it would print."""
    for name in ("SERVING_TOKEN", "SERVING_WEBHOOK_SECRET", "PREFECT_API_URL", "SERVING_URL"):
        monkeypatch.delenv(name, raising=False)
    told: dict[str, Any] = {}

    class Server:
        def __init__(self, app: object, url: str, *, proxies: object) -> None:
            told["url"] = url

        def run(self, sockets: list[socket.socket]) -> None:
            told["address"] = sockets[0].getsockname()
            sockets[0].close()

    monkeypatch.setattr("serving.__main__.Server", Server)
    monkeypatch.setattr("serving.__main__.App", lambda models, **options: told.update(options))
    monkeypatch.setattr("serving.__main__.configure_logging", lambda: None)

    def start(*arguments: str, status: int = 0) -> dict[str, Any]:
        told.clear()
        assert main([*arguments]) == status
        return dict(told)

    return start


def test_serve_is_the_verb_and_binds_to_this_machine(model: str, started: Callable[..., dict[str, Any]]) -> None:
    told = started("--model", model, "--port", "0", "--allowed-hosts", "a.example, ,b.example")
    port = told["address"][1]
    assert told["address"][0] == "127.0.0.1"
    assert told["url"] == told["serving_url"] == f"http://127.0.0.1:{port}"
    assert told["hosts"] == ("127.0.0.1", "a.example", "b.example")
    assert (told["show"], told["token"], told["webhook_secret"], told["prefect_url"]) == (True, None, None, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])  # with a token, for the time of a test
def test_what_the_environment_says_reaches_the_application(
    model: str, host: str, started: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SERVING_TOKEN": "t",
        "SERVING_WEBHOOK_SECRET": "hush",
        "PREFECT_API_URL": "http://p/api",
        "PREFECT_API_AUTH_STRING": "a:b",
        "SERVING_URL": "http://outside",
    }.items():
        monkeypatch.setenv(name, value)
    told = started("serve", "--model", model, "--port", "0", "--host", host, "--no-show")
    assert (told["show"], told["token"], told["webhook_secret"]) == (False, "t", "hush")
    assert (told["prefect_url"], told["prefect_auth"], told["serving_url"]) == ("http://p/api", "a:b", "http://outside")
    assert told["url"].startswith("http://localhost:" if host == "localhost" else "http://127.0.0.1:")


def test_a_port_that_is_taken_is_said(
    model: str, started: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert started("--model", model, "--port", str(port), status=1) == {}
    expected = f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; try another --port\n"
    assert capsys.readouterr().err == expected


def test_a_host_that_is_not_this_one_is_said(
    model: str, started: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        started("--model", model, "--host", "192.0.2.1", "--token", "t", status=1) == {}
    )  # of the documentation block
    assert "cannot listen on 192.0.2.1 port 8000: " in (said := capsys.readouterr().err)
    assert said.endswith("; try an address of this machine\n")


@pytest.mark.parametrize(("text", "fits"), [("65535", True), ("65536", False), ("-1", False), ("1.5", False)])
def test_a_port_is_a_number_up_to_65535(text: str, fits: bool) -> None:
    if fits:
        assert parse(["--port", text])[1].port == int(text)
        assert parse([])[1].port == 8000
        return
    with pytest.raises(UsageError, match=r"^--port: "):
        parse(["--port", text])


def test_a_registry_that_is_away_holds_nobody_up_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MAX_RETRIES", "BACKOFF_FACTOR", "TIMEOUT")
    for name in names:
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    assert main(["record", "--model", "nowhere.onnx"]) == 1
    assert [os.environ[f"MLFLOW_HTTP_REQUEST_{name}"] for name in names] == ["2", "1", "5"]


def test_a_key_that_interrupts_is_130(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.__main__.serve", interrupt)
    assert main(["--model", model]) == 130
