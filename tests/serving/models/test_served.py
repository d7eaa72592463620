"""Which bytes may play: those that were judged, in an environment this server knows, with answers that are numbers."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.errors import PolicyError
from serving.models.served import ServedModel
from serving.models.source import Version
from tests.support.dqn.probes import Probe
from tests.support.serving.faulty import GOOD
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model

VERSION = Version(number="1", source="s")
NAN, INF = float("nan"), float("inf")


class Offset(Probe):
    """Its actions are 1 and 2."""

    action_space = gym.spaces.Discrete(2, start=1)


class Switches(Probe):
    """Its action is two switches."""

    action_space = gym.spaces.MultiBinary(2)  # type: ignore[assignment] # no policy of this project can play it


gym.register("Offset-v0", f"{__name__}:Offset", max_episode_steps=5)
gym.register("Switches-v0", f"{__name__}:Switches", max_episode_steps=5)


def load(content: bytes, digest: str = "", environments: Sequence[str] = ()) -> ServedModel:
    version = Version(number="1", source="s", tags={"sha256": digest})
    return ServedModel.load("dqn", version, content, environments=frozenset(environments))


def of(env_id: str, width: int = 4, actions: int = 2) -> bytes:
    meanings = ",".join("abcdefgh"[:actions])
    properties = PROPERTIES | {"env_id": env_id, "action_meanings": meanings}
    return linear_model([1.0] * width, properties=properties, actions=actions)


def computing(*nodes: tuple[str, list[str]], **constants: Any) -> bytes:
    """A policy for CartPole by other operators than a product: (operator, inputs), the last one's output its answer."""
    names = [f"n{index}" for index in range(len(nodes) - 1)] + ["q_values"]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, inputs, [name]) for (kind, inputs), name in zip(nodes, names, strict=True)],
            "computing",
            [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["rows", 2])],
            [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    helper.set_model_props(model, PROPERTIES)
    return bytes(model.SerializeToString())


WEIGHT = np.ones((4, 2), dtype=np.float32)


def test_an_accepted_model_has_its_name_and_digest() -> None:
    digest = sha256(GOOD[0]).hexdigest()
    for tag in ("", digest):
        served = load(GOOD[0], tag)
        assert (served.name, served.version.number, served.sha256) == ("dqn", "1", digest)
        assert served.policy.metadata.env_id == "CartPole-v1"


def test_another_artifact_than_the_judged_one_is_refused() -> None:
    digests = [sha256(model).hexdigest()[:12] for model in GOOD[:2]]
    sentence = f"has the SHA-256 {digests[0]}..., its tag says {digests[1]}... was judged: evaluate and promote it"
    with pytest.raises(PolicyError, match=sentence):
        load(GOOD[0], sha256(GOOD[1]).hexdigest())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            of("tests.support.dqn.registers_on_import:Registered-v0"),
            "is not one of Gymnasium's: start serving with --allow-env",
        ),
        (of("x" * 100), "environment '" + "x" * 80 + "' is not one"),
        (of("Offset-v0"), "environment 'Offset-v0' is not one of Gymnasium's"),
        (linear_model(BALANCES, properties=PROPERTIES | {"world": '{"inertia": 2}'}), "episodes cannot be played here"),
        (of("CartPole-v1", width=3), r"takes observations of the shape \(3,\), CartPole-v1 has the shape \(4,\)"),
        (of("CartPole-v1", actions=3), r"chooses among 3 actions, CartPole-v1 has Discrete\(2\)"),
        (of("Pendulum-v1", width=3), "chooses among 2 actions, Pendulum-v1 has Box"),
        (linear_model(BALANCES, bias=NAN), "answers nan to ordinary observations"),
        (linear_model(BALANCES, bias=INF), "answers inf to ordinary observations"),
        # in an untouched state an observation may well be all zeros
        (computing(("MatMul", ["observation", "w"]), ("Div", ["n0", "n0"]), w=WEIGHT), "answers nan to ordinary"),
        (
            computing(("Reshape", ["observation", "s"]), ("MatMul", ["n0", "w"]), s=[-1, 8], w=np.tile(WEIGHT, (2, 1))),
            "fails on a batch of 64 observations",
        ),
        (
            computing(("MatMul", ["observation", "w"]), ("Tile", ["n0", "twice"]), w=WEIGHT, twice=[2, 1]),
            r"answers a batch of 64 with the shape \[128, 2\], not \[64, 2\]",
        ),
    ],
)
def test_a_model_that_cannot_play_is_refused_in_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        load(content)


def test_an_environment_that_was_admitted_is_played() -> None:
    env_id = "tests.support.dqn.registers_on_import:RegisteredOnImport-v0"
    assert load(of(env_id, width=1), environments=[env_id]).policy.metadata.env_id == env_id
    assert load(of("Offset-v0", width=1), environments=["Offset-v0"]).policy.metadata.num_actions == 2
    with pytest.raises(PolicyError, match=r"chooses among 3 actions, Offset-v0 has Discrete\(2\)"):
        load(of("Offset-v0", width=1, actions=3), environments=["Offset-v0"])
    with pytest.raises(PolicyError, match=r"has MultiBinary\(2\)"):
        load(of("Switches-v0", width=1), environments=["Switches-v0"])


def test_the_environment_it_was_checked_against_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr("dqn.environments.wrappers.WorldEnv.close", lambda env: closed.append(env))
    load(GOOD[0])
    assert len(closed) == 1
