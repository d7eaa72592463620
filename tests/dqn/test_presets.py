"""Presets of one's own, in the directory one works in."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dqn.presets import PRESETS
from flows.cli.train import parse
from flows.request.saved_presets import own_presets, read_preset, save_preset


def test_a_saved_preset_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_preset("mine") is None
    config = dataclasses.replace(PRESETS["acrobot"], gamma=0.5, hidden_sizes=(7,))
    save_preset("mine", "acrobot", config)
    save_preset("other", "cartpole", PRESETS["cartpole"])
    assert read_preset("mine") == ("acrobot", config)
    for argv in (["--preset", "mine"], ["--preset=mine"]):
        arguments = parse([*argv, "--seed", "3"])
        assert (arguments.preset, arguments.config) == ("acrobot", dataclasses.replace(config, seed=3))
    for name in ("cartpole", "A", "", "-x", "../x"):
        with pytest.raises(ValueError, match="a preset of your own has small letters"):
            save_preset(name, "cartpole", config)
    (tmp_path / "presets.json").write_text('{"mine": {"preset": "gone", "changes": {}}, "bad": 3}')
    for name in ("mine", "bad"):
        with pytest.raises(ValueError, match="names no preset and its changes"):
            read_preset(name)
    (tmp_path / "presets.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_preset("mine")


def test_presets_that_are_saved_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"mine-{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for saved in [pool.submit(save_preset, name, "cartpole", PRESETS["cartpole"]) for name in names]:
            saved.result()
    assert sorted(own_presets()) == sorted(names)
    assert [path.name for path in tmp_path.iterdir()] == ["presets.json"]
