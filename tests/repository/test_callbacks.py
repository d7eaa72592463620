"""The documents' examples of a kept policy and of callbacks, with stand-ins for packages that are not installed."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dqn import PRESETS, DQNConfig, train
from tests.repository.test_documentation import python_blocks


def run(first: str) -> dict[str, Any]:
    """The names that a block defines."""
    (block,) = [block for block in python_blocks() if block.startswith(first)]
    names: dict[str, Any] = {}
    exec(compile(block, first, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def small(small_config: Callable[..., DQNConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DQNConfig:
    """The preset that the examples train, in a second."""
    config = small_config()
    monkeypatch.setitem(PRESETS, "cartpole", config)
    monkeypatch.chdir(tmp_path)
    return config


def expected(names: dict[str, Any]) -> list[tuple[str, float, int]]:
    columns = names["result"].curves()
    rows = zip(columns["metric"], columns["agent"], columns["value"], columns["step"], strict=True)
    return [(f"{metric}/{agent}", float(value), int(step)) for metric, agent, value, step in rows]


def test_tensorboard_gets_every_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            assert log_dir == "runs/cartpole"

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            written.append((tag, scalar_value, global_step))

    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", stand_in)
    names = run("from torch.utils.tensorboard import")
    assert written == expected(names)
    assert len(written) > 100


def test_weights_and_biases_gets_every_value_once(monkeypatch: pytest.MonkeyPatch, small: DQNConfig) -> None:
    written: list[tuple[str, float, int]] = []
    ended: list[bool] = []

    def init(*, project: str, config: dict[str, Any]) -> Any:
        assert DQNConfig.from_dict(config) == small

        def log(values: dict[str, Any]) -> None:
            step = values.pop("environment steps")
            ((name, value),) = values.items()
            written.append((name, value, step))

        return SimpleNamespace(log=log, finish=lambda: ended.append(True))

    stand_in = ModuleType("wandb")
    stand_in.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "wandb", stand_in)
    names = run("import wandb")
    assert written == expected(names)
    assert ended == [True]


def test_a_kept_policy_acts_and_is_evaluated(small: DQNConfig) -> None:
    train(small).export("policy.onnx")
    names = run("from dqn import Policy")
    assert names["action"] in (0, 1)
    assert names["returns"].shape == (20,)
    assert (names["returns"] >= 1).all()
