import dataclasses
import io
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import httpx
import numpy as np
import pytest
import requests

from dqn.config import DQNConfig
from flows.cli import train
from flows.cli.program import VERBS, main, prepare, without_proxy
from flows.request.general import budget, general
from flows.request.parameters import ConfigOverrides
from flows.tracking.pages import mlflow_command
from serving.commands import command
from tests.support.dqn.probes import Probe


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "")  # so that it is put back
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])


def test_a_terminal_that_cannot_show_a_character_shows_another(
    surroundings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    prepare()
    print("🏃 View run", file=sys.stdout)
    print("ä", file=sys.stderr)
    assert raw.getvalue() == b"? View run\n?\n"


def test_modules_of_the_current_directory_are_found_after_those_installed(
    surroundings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare()
    prepare()
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("excepted", ["", "example.org", "127.0.0.1, example.org"])
def test_a_proxy_is_not_asked_for_this_machines_own_servers(
    surroundings: None, proxy: str, excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(proxy, "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", excepted)
    prepare()
    for host in ("127.0.0.1:4201", "localhost:5001"):
        assert requests.utils.should_bypass_proxies(f"http://{host}/", None)
        with httpx.Client() as client:
            assert client._transport_for_url(httpx.URL(f"http://{host}/")) is client._transport
    assert bool(excepted) == requests.utils.should_bypass_proxies("http://example.org/", None)


def test_without_a_proxy_nothing_is_set() -> None:
    assert without_proxy({"NO_PROXY": "example.org"}) == {}
    assert without_proxy({"http_proxy": "p", "NO_PROXY": "*"})["no_proxy"] == "*"


@pytest.mark.parametrize(
    ("options", "typed"),
    [
        ((), "make train"),
        (("--resume", "ab"), 'make train ARGS="--resume ab"'),
        (("--checkpoint-dir", "/a b"), "make train ARGS=\"--checkpoint-dir '/a b'\""),
    ],
)
def test_a_command_is_printed_as_it_is_typed(options: tuple[str, ...], typed: str) -> None:
    assert command("train", *options) == typed


def test_a_command_works_where_there_is_no_makefile_of_this_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for makefile in (None, "train:\n\tcargo run\n"):
        if makefile:
            (tmp_path / "Makefile").write_text(makefile)
        monkeypatch.setattr("sys.argv", ["/anywhere/flows/train.py"])
        assert command("train", "--resume", "ab", "--checkpoint-dir", "/a b") == (
            "python -m flows train --resume ab --checkpoint-dir '/a b'"
        )
        assert [command(verb) for verb in ("sweep", "serve", "ui")] == [
            "python -m flows sweep",
            "python -m serving",
            "mlflow ui",
        ]
        monkeypatch.setattr("sys.argv", ["/home/me/.venv/bin/dqn"])
        assert [command(verb) for verb in ("train", "sweep", "serve", "ui")] == [
            "dqn train",
            "dqn sweep",
            "dqn serve",
            "mlflow ui",
        ]


def environment(directory: Path, base: Path) -> Path:
    """A virtual environment without packages: its Python is a link to another one's, as `venv` makes it."""
    (directory / "bin").mkdir(parents=True)
    (directory / "bin/python").symlink_to(base)
    for name in ("mlflow", "dqn"):
        (directory / "bin" / name).touch(mode=0o755)
    return directory / "bin/python"


def test_a_program_is_named_by_its_path_where_its_name_starts_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = tmp_path / "base python"
    base.touch(mode=0o755)
    mine, others = environment(tmp_path / "my own/.venv", base), environment(tmp_path / "others", base)
    monkeypatch.setattr("sys.executable", str(mine))
    monkeypatch.chdir(tmp_path)
    for path in (f"{others.parent}:{mine.parent}", ""):  # another environment is activated; none is
        monkeypatch.setenv("PATH", path)
        assert command("train") == "'my own/.venv/bin/python' -m flows train"
        assert command("ui") == "'my own/.venv/bin/mlflow' ui"
    monkeypatch.chdir(mine.parents[2])
    assert command("serve", "--port", "8001") == ".venv/bin/python -m serving --port 8001"
    monkeypatch.chdir(others.parent)
    assert command("sweep") == f"'{mine}' -m flows sweep"
    monkeypatch.setattr("sys.argv", ["dqn"])
    assert command("record") == f"'{mine.with_name('dqn')}' record"
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/dqn").symlink_to(mine.with_name("dqn"))  # as pipx does
    for directory in (mine.parent, tmp_path / "linked"):
        monkeypatch.setenv("PATH", str(directory))
        assert command("record") == "dqn record"
    mine.with_name("mlflow").unlink()  # installed for a user, not in an environment
    assert command("ui") == "mlflow ui"


def test_a_command_of_mlflow_names_a_store_that_is_not_the_default_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert mlflow_command("runs list") == "mlflow runs list"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a b.db")
    assert mlflow_command("runs list") == f"MLFLOW_TRACKING_URI='sqlite:///{tmp_path}/a b.db' mlflow runs list"


class Bounded(Probe):
    observation_space = gym.spaces.Box(
        np.array([-3.0, -np.inf, np.finfo(np.float32).min, 0.0], np.float32),
        np.array([2.0, np.inf, np.finfo(np.float32).max, 0.0], np.float32),
    )


class Unbounded(Probe):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


gym.register("Bounded-v0", "tests.flows.cli.test_program:Bounded", max_episode_steps=9, reward_threshold=7)
gym.register("Unbounded-v0", "tests.flows.cli.test_program:Unbounded", max_episode_steps=9)


def test_an_environment_without_a_preset_trains_with_what_its_registration_says() -> None:
    bounded, unbounded = general("Bounded-v0"), general("Unbounded-v0")
    assert (bounded.observation_scale, bounded.acceptance_return) == ((3.0, 1.0, 1.0, 1.0), 7.0)
    assert (unbounded.observation_scale, unbounded.acceptance_return) == ((), None)
    parsed = train.parse(["--env-id", "Bounded-v0", "--gamma", "0.5"])
    assert parsed.config == dataclasses.replace(bounded, gamma=0.5)
    assert train.announcement(parsed).startswith("Training 16 DQN agents on Bounded-v0 (general values, seed 0)")
    sent = train._overrides(parsed)
    assert (sent, parsed.preset) == ({"env_id": "Bounded-v0", "gamma": 0.5}, "general")
    assert ConfigOverrides.model_validate(sent).applied_to("general") == parsed.config
    assert train.parse(["--preset", "general", "--seed", "3"]).config == dataclasses.replace(
        general("CartPole-v1"), seed=3
    )
    assert "24,000 updates an agent, or until it returns 7;" in budget(bounded)
    assert "then the best of its evaluations counts" in budget(unbounded)
    assert train.parse(["--env-id", "Bounded-v0", "--preset", "acrobot"]).config.observation_scale != (
        3.0,
        1.0,
        1.0,
        1.0,
    )
    assert train.parse(["--seed", "1"]).config.acceptance_return == 500.0


@pytest.mark.parametrize("none", ["none", "None", "NONE"])
def test_none_is_understood_for_what_may_be_left_out(none: str) -> None:
    for arguments in (["--acceptance-return", none, "--observation-scale", none], [f"--acceptance-return={none}"]):
        config = train.parse(arguments).config
        assert config.acceptance_return is None
    assert train.parse(["--observation-scale", none, "--seed", "1"]).config.observation_scale == ()
    assert DQNConfig().observation_scale == ()


def test_the_script_lists_every_verb_on_one_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/home/me/.venv/bin/dqn", "--help"])
    with pytest.raises(SystemExit) as asked:
        main()
    assert asked.value.code == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "usage: dqn VERB [OPTIONS]; --help after a verb lists its options"
    assert [line.split()[0] for line in lines if line] == list(VERBS)
    assert len(lines) < 23
    assert all(len(line) <= 80 for line in lines)
    assert all(find_spec(verb.module) for verb in VERBS.values())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("flows",), 2, "usage: python -m flows VERB"),
        (("flows", "--help"), 0, "usage: python -m flows VERB"),
        (("flows", "trian"), 2, "error: there is no verb 'trian'; did you mean train?\nusage: "),
        (("flows", "serve", "--prot", "1"), 2, "error: serve has no option --prot; did you mean --port?\n"),
        (("flows.train",), 1, "this module is no program; type: python -m flows train"),
        (("flows.sweep",), 1, "this module is no program; type: python -m flows sweep"),
        (("flows", "train", "--help"), 0, "usage: python -m flows train"),
        (("flows", "sweep", "--help"), 0, "usage: python -m flows sweep"),
    ],
)
def test_a_verb_is_found_and_anything_else_is_one_sentence(words: tuple[str, ...], code: int, said: str) -> None:
    done = subprocess.run((sys.executable, "-m", *words), capture_output=True, text=True)
    assert done.returncode == code
    assert said in (done.stderr if code else done.stdout)
