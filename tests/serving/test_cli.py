"""The command line: verbs, options, and the one sentence that each mistake gets."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.arguments import UsageError, parse
from tests.support.serving.policies import BALANCES, linear_model


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["record", "--model", "nowhere.onnx"], "there is no file nowhere.onnx"),
        (["record", "--model", "champion"], "expected models:/NAME@ALIAS"),
        (["serve", "--model", "MODEL", "--host", "0.0.0.0"], "give it a --token"),
        (["serve", "--model", "MODEL", "--shadow", "2"], "--shadow names a version of a registry"),
        (["serve", "--model", "MODEL", "--canary-share", "0.1"], "name an alias or a number with it"),
    ],
)
def test_mistakes_get_one_sentence(
    model_path: str,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SERVING_TOKEN", raising=False)
    assert main([model_path if word == "MODEL" else word for word in arguments]) == 1
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
        (["--canary-share", "0.51"], "--canary-share: a share is a number from 0 to 0.5, got '0.51'"),
        (["--shadow-share", "nan"], "--shadow-share: a share is a number from 0 to 1, got 'nan'"),
        (["record", "--out", "x.avi"], "--out: should end in .mp4, .webm or .gif, got 'x.avi'"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_names(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize("verb", ["serve", "watch", "record"])
def test_an_option_that_takes_one_value_is_refused_the_second_time(verb: str) -> None:
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
    model_path: str,
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
    assert main([verb, "--model", model_path, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --allow-env: {sentence}")
    assert said.count("\n") == 1


def test_an_environment_that_the_module_of_another_registers_is_admitted(
    model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.__main__.serve", lambda *_: 0)
    admitted = ("RegisteredOnImport-v0", "tests.support.dqn.registers_on_import:RegisteredOnImport-v0", "CartPole-v1")
    assert main(["--model", model_path, *(word for env_id in admitted for word in ("--allow-env", env_id))]) == 0


def test_a_module_of_the_current_directory_is_admitted_by_the_console_script_too(
    model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_this_directory.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('OfThisDirectory-v0', entry_point=CartPoleEnv, max_episode_steps=9)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.setattr("serving.__main__.serve", lambda *_: 0)
    assert main(["--model", model_path, "--allow-env", "of_this_directory:OfThisDirectory-v0"]) == 0


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
def test_an_option_may_be_at_its_limit(arguments: list[str], options: dict[str, int]) -> None:
    verb, parsed = parse(arguments)
    assert verb == arguments[0]
    assert vars(parsed).items() >= options.items()


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


def test_requests_to_a_registry_that_is_away_time_out_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MAX_RETRIES", "BACKOFF_FACTOR", "TIMEOUT")
    for name in names:
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    assert main(["record", "--model", "nowhere.onnx"]) == 1
    assert [os.environ[f"MLFLOW_HTTP_REQUEST_{name}"] for name in names] == ["2", "1", "5"]
