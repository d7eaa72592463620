import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from dqn.environments.snapshot import SnapshotError, restore
from dqn.experience.vector import VectorEnvironment
from dqn.training.checkpoint import load_checkpoint, save_checkpoint
from dqn.training.state import TrainingState
from flows.training.population import _start
from tests.support.dqn.training import Make
from tests.support.dqn.vector import make, play, same

CAPTURED = (
    "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "AliasedGenerator-v0", "Text-v0", "IntegerKeys-v0",
    "PhiloxGenerator-v0", "Enumerated-v0", "NumpyScalar-v0", "Wrapped-v0",
)  # fmt: skip


@pytest.mark.parametrize("env_id", CAPTURED)
def test_a_snapshot_goes_on_as_the_original_also_after_agents_have_left(env_id: str) -> None:
    original = make(env_id)
    assert original.not_capturable is None
    play(original, 90)
    original.select(torch.tensor([0, 2]))
    play(original, 40)
    state = original.state_dict()
    expected = play(original, 220, seed=1)
    restored = make(env_id, seed=99)
    restored.select(torch.tensor([0, 2]))
    assert restored.load_state_dict(state)
    assert same(play(restored, 220, seed=1), expected)
    for environment in (original, restored):
        environment.select(torch.tensor([1]))
    assert same(play(restored, 60, seed=2), play(original, 60, seed=2))


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("LunarLander-v3", "a pickled copy of it does not work: AssertionError"),
        ("ModuleGenerator-v0", "behaves differently"),
        ("ClassCounter-v0", "behaves differently"),
        ("Rebuilt-v0", "behaves differently"),
        ("Lock-v0", "TypeError: cannot pickle '_thread.lock' object"),
    ],
)
def test_what_cannot_be_captured_is_found_out_at_the_start(env_id: str, reason: str) -> None:
    environment = make(env_id, num_agents=1, num_envs=1)
    assert environment.not_capturable is not None
    assert reason in environment.not_capturable
    state = environment.state_dict()
    assert state["envs"] is None
    assert not make(env_id, num_agents=1, num_envs=1).load_state_dict(state)


@pytest.mark.parametrize(("env_id", "warned"), [("Lock-v0", True), ("Text-v0", False)])
def test_a_training_says_at_its_start_that_its_episodes_cannot_go_on(
    small_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, env_id: str, warned: bool
) -> None:
    _start(small_config(env_id=env_id), tmp_path / "run.ckpt", None)
    assert ("the state of Lock-v0 cannot be saved (TypeError: cannot pickle" in caplog.text) == warned


def test_trying_out_a_snapshot_leaves_the_environments_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = play(make("Acrobot-v1"), 30)
    monkeypatch.setattr("dqn.experience.vector.why_not_capturable", lambda *_: None)
    assert same(play(make("Acrobot-v1"), 30), tried)


def test_what_becomes_impossible_later_does_not_end_a_training(small_config: Make, tmp_path: Path) -> None:
    state = TrainingState.begin(small_config(env_id="LateLock-v0"))
    assert state.environment.not_capturable is None
    play(state.environment, 230)
    save_checkpoint(tmp_path / "run.ckpt", state)
    assert "_thread.lock" in str(state.environment.not_capturable)
    _, continues = load_checkpoint(tmp_path / "run.ckpt")
    assert not continues


def test_bytes_that_are_no_environments_are_refused_with_their_reason() -> None:
    with pytest.raises(SnapshotError, match="UnpicklingError: "):
        restore(b"no pickle")
    with pytest.raises(SnapshotError, match="ModuleNotFoundError: No module named 'nowhere'"):
        restore(b"cnowhere\nEnv\n.")


def test_the_environments_of_agents_that_left_are_closed_and_released(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = VectorEnvironment("Acrobot-v1", num_agents=3, num_envs=1, seed=0)
    inner: Any = environment._envs
    envs = [weakref.ref(env.unwrapped) for env in inner.envs]
    closed: list[int] = []
    kind: Any = type(envs[0]())
    monkeypatch.setattr(kind, "close", lambda self: closed.append(id(self)))
    leaving = id(envs[1]())
    environment.select(torch.tensor([0, 2]))
    del inner
    gc.collect()
    assert [reference() is None for reference in envs] == [False, True, False]
    assert closed == [leaving]
