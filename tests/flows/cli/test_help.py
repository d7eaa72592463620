"""`--help` is a screen, and no option is missing on it."""

import dataclasses
import re
import subprocess
import sys
from typing import Any

import pytest

from dqn.config import DQNConfig
from flows.cli import options, sweep, train
from flows.cli.help import described, group_of


def shown(parse: Any, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as asked:
        parse(argv)
    assert asked.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("module", "lines"), [(train, 42), (sweep, 24)])
def test_help_is_one_screen_with_every_option(
    module: Any, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen = shown(module.main, ["--help"], capsys)
    assert "--help-all explains each" in screen
    assert len(screen.splitlines()) <= lines
    assert all(len(line) <= 80 for line in screen.splitlines())
    names = {name.partition(".")[0] for name in options.option_types(module.Arguments)}
    assert [name for name in sorted(names) if f"--{name}" not in screen] == []
    everything = shown(module.main, ["--help-all"], capsys)
    text = " ".join(everything.split())
    for told in described(module.Arguments).values():
        assert told in text


def test_the_groups_of_training_are_in_order_and_none_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    screen = shown(train.parse, ["--help"], capsys)
    heads = re.findall(r"^(\w+) +--", screen, re.MULTILINE)
    groups = ["run", "environment", "network", "exploration", "learning", "budget", "evaluation"]
    assert heads == groups
    assert {group_of(field.name) for field in dataclasses.fields(DQNConfig)} == set(groups)
    assert {group_of(name) for name in ("body", "num_atoms", "value_range", "num_quantiles")} == {"network"}
    everything = " ".join(shown(train.parse, ["--help-all"], capsys).split())
    for told in described(DQNConfig).values():
        assert told
        assert told in everything
    assert "--world.wind 0.0 Constant outside force" in everything


def test_the_defaults_shown_are_of_the_preset_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    screen = shown(train.parse, ["--preset", "lunarlander", "--help"], capsys)
    assert "--env-id LunarLander-v3" in screen


def test_help_that_is_read_half_is_no_error() -> None:
    reading = "from flows.cli.train import main; main(['--help-all'])"
    command = f'{sys.executable} -c "{reading}" | true'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
