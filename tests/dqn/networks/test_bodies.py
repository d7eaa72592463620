"""What a population does with networks, for every body and every head."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dqn.config import ConfigError, DQNConfig
from dqn.experience.transitions import Batch
from dqn.learning.learner import Learner
from dqn.networks.bodies.module import module_body
from dqn.networks.making import body_of, head_of
from dqn.networks.onnx import ExportError, ModelProperties, by_reference, export_onnx
from dqn.networks.population import QNetworks, together
from dqn.training.checkpoint import CheckpointError, load_networks, save_networks
from serving.policy import OnnxPolicy
from tests.support.dqn.bodies import BODIES, HEADS, IMAGE, Gated, Projected, layers, observations, population
from tests.support.dqn.learning import rows_of

every_body = pytest.mark.parametrize("body", BODIES)
every_network = pytest.mark.parametrize(
    ("body", "head"), [*((body, "values") for body in BODIES), *(("conv", head) for head in HEADS), ("mlp", "atoms")]
)
PROPERTIES = ModelProperties(
    env_id="CartPole-v1", action_meanings=("a", "b", "c"), run_id="", seed=0, agent=1, config_sha256=""
)


@every_network
def test_agents_compute_together_what_each_computes_alone(body: str, head: str) -> None:
    networks = population(body, head)
    observation = observations(networks)
    q_values = networks(observation)
    assert q_values.shape == (3, 10, 3)
    assert (networks.num_agents, networks.num_actions) == (3, 3)
    torch.testing.assert_close(networks.head.q_values(networks.outputs(observation)), q_values)
    for k in range(3):
        alone = networks.select(torch.tensor([k]))
        torch.testing.assert_close(alone(observation[k : k + 1])[0], q_values[k])
        images = torch.unflatten(observation[k], 1, networks.body.observation_shape)
        torch.testing.assert_close(networks.agent(k)(images), q_values[k])
    assert not torch.equal(q_values[0], q_values[1])


@every_network
def test_gradients_are_those_of_autograd_through_each_agents_modules(body: str, head: str) -> None:
    networks = population(body, head)
    observation = observations(networks)
    activations = networks.activations(observation)
    gradient = torch.randn(activations[-1].shape, generator=torch.Generator().manual_seed(2))
    networks.backward(networks.activations(observation), torch.ones_like(gradient))
    networks.backward(activations, gradient)  # gradients are set, not added up
    followed = copy.deepcopy(networks).requires_grad_(True)
    outputs = followed.outputs(observation)
    expected = torch.autograd.grad((outputs * followed.by_action(gradient)).sum(), followed.tensors)
    for mine, theirs in zip(networks.tensors, expected, strict=True):
        assert mine.grad is not None
        assert mine.grad.is_contiguous(), "the fused AdamW reads gradients in the order of memory"
        assert mine.ndim == 3, "what is computed for every tensor needs no other shapes"
        torch.testing.assert_close(mine.grad, theirs)


@every_network
def test_networks_are_selected_assigned_moved_and_put_together(body: str, head: str) -> None:
    networks = population(body, head)
    observation = observations(networks)
    q_values, order = networks(observation), torch.tensor([2, 0])
    chosen = networks.select(order)
    torch.testing.assert_close(chosen(observation[order]), q_values[order])
    for tensor in chosen.tensors:
        tensor.add_(1.0)
    torch.testing.assert_close(networks(observation), q_values)  # a copy
    networks.assign(order, chosen)
    torch.testing.assert_close(networks(observation)[order], chosen(observation[order]))
    torch.testing.assert_close(networks(observation)[1], q_values[1])
    both = together([chosen, networks])
    assert both.num_agents == 5
    torch.testing.assert_close(both(observation[[2, 0, 0, 1, 2]])[2:], networks(observation))
    elsewhere = networks.on(torch.device("meta"))
    assert {tensor.device.type for tensor in elsewhere.tensors} == {"meta"}
    assert elsewhere(observation.to("meta")).shape == (3, 10, 3)


@every_body
def test_an_agent_starts_the_same_in_every_population(body: str) -> None:
    small, large = population(body, num_agents=2), population(body, num_agents=4)
    for mine, theirs in zip(small.tensors, large.tensors, strict=True):
        assert torch.equal(mine, theirs[:2])
    assert not torch.equal(large.tensors[0][0], large.tensors[0][1])


@every_body
def test_parameters_and_activations_are_counted(body: str) -> None:
    networks, made = population(body), BODIES[body]
    assert sum(tensor[0].numel() for tensor in networks.tensors) == (
        made.num_parameters + (made.num_features + 1) * networks.num_actions
    )
    kept = networks.activations(observations(networks, 1))[:-1]
    if not body.startswith(("own", "no")):
        entries = sum(activation[0].numel() for activation in kept)
        patches = 3 * 2 * 18 if body.startswith("conv") else 0  # 3 x 2 of them, made again in the backward pass
        assert made.num_activations == entries + patches
    assert kept[-1].shape == (3, made.num_features, 1)


@every_network
def test_an_agent_takes_the_steps_that_it_would_take_alone(body: str, head: str) -> None:
    networks = population(body, head)
    atoms = networks.head.num_outputs if "atoms" in head else 0
    config = DQNConfig(num_atoms=atoms, tau=0.1, target_update_interval=0, average_rate=0.1, learning_rate=1e-2)
    loss = (lambda outputs, *_: outputs.square().mean((2, 3))) if head == "quantiles" else None
    whole, alone = Learner(config, networks), Learner(config, networks.select(torch.tensor([1])))
    before = [tensor.clone() for tensor in whole.online.tensors]
    for step in range(5):
        batch = batches(networks, seed=step)
        whole.update(batch, loss)
        alone.update(rows_of(batch, torch.tensor([1])), loss)
    for mine, theirs in zip(alone.evaluated.tensors, whole.evaluated.tensors, strict=True):
        torch.testing.assert_close(mine[0], theirs[1], rtol=1e-4, atol=1e-6)
    assert all(not torch.equal(was, tensor) for was, tensor in zip(before, whole.online.tensors, strict=True))
    assert whole.finite().tolist() == [True] * 3


def batches(networks: QNetworks, *, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    observation = observations(networks, 8)
    return Batch(
        observation=observation,
        action=torch.randint(3, (3, 8), generator=generator),
        reward=torch.rand(3, 8, generator=generator),
        next_observation=observation.flip(1),
        discount=torch.rand(3, 8, generator=generator),
    )


@pytest.mark.parametrize(
    ("body", "head"),
    [
        pytest.param(body, "values", marks=[pytest.mark.slow] if body in ("own module", "own buffers") else [])
        for body in BODIES
    ]
    + [(body, head) for head in HEADS for body in ("mlp", "conv")],
)
def test_serving_plays_what_is_exported(body: str, head: str) -> None:
    networks = population(body, head)
    exported = export_onnx(networks, PROPERTIES, load=lambda model: OnnxPolicy.load(model).q_values)
    images = torch.unflatten(observations(networks)[1], 1, networks.body.observation_shape).numpy()
    expected = networks(observations(networks))[1].numpy()
    np.testing.assert_allclose(OnnxPolicy.load(exported).q_values(images), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_reference(exported)(images), expected, rtol=1e-4, atol=1e-6)
    assert export_onnx(networks, PROPERTIES, load=by_reference) == exported, "twice the same bytes"
    model = onnx.load_from_string(exported)
    assert b".py" not in exported
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", *networks.body.observation_shape]


@pytest.mark.parametrize("body", ["conv", pytest.param("own module", marks=pytest.mark.slow)])
def test_masks_are_an_input_of_every_exported_body(body: str) -> None:
    networks, properties = population(body, "atoms"), dataclasses.replace(PROPERTIES, masked=True)
    policy = OnnxPolicy.load(export_onnx(networks, properties, load=by_reference))
    images = torch.unflatten(observations(networks)[1], 1, networks.body.observation_shape).numpy()
    mask = np.arange(30).reshape(10, 3) % 3 == 2
    assert policy.act(images, mask).tolist() == [2] * 10


def test_a_module_that_computes_something_else_than_its_base_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Doubling(nn.Linear):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(given)

    networks = QNetworks.initialised(seeds=range(2), body=module_body(lambda _: Doubling(4, 3), (4,)), num_actions=3)

    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'")

    monkeypatch.setattr(torch.onnx, "export", missing)
    with pytest.raises(ExportError, match=r"cannot export the body \(No module named 'onnxscript'\)"):
        export_onnx(networks, PROPERTIES, load=by_reference)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: nn.Unflatten(1, (2, 2)), r"to features \[2, F\], got \[2, 2, 2\]"),
        (lambda _: nn.Flatten(0), r"got \[8\]"),
        (lambda _: nn.LSTM(4, 3), "got tuple"),
        (lambda _: nn.Linear(4, 3).requires_grad_(False), "body has the parameter weight without a gradient"),
    ],
)
def test_a_body_that_gives_no_features_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"body must map observations \[2, 4\] {message}|{message}"):
        module_body(make, (4,))  # type: ignore[arg-type]


def test_a_convolution_is_the_same_whether_agents_are_taken_at_once_or_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for entries in (2**18, 2 * 10 * 3 * 2 * 18, 1):  # of patches: those of all agents, of two of three, of one
        monkeypatch.setattr("dqn.networks.bodies.conv._CACHED", entries)
        networks = population("conv")
        activations = networks.activations(observations(networks))
        networks.backward(activations, torch.ones_like(activations[-1]))
        found.append([activations[-1], *(tensor.grad for tensor in networks.tensors)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_a_convolution_takes_images_only() -> None:
    config = DQNConfig(body="conv")
    for shape in ((4,), (4, 4), (2, 9, 1), (9, 2, 1)):
        with pytest.raises(ConfigError, match=r"body 'conv' takes images .* of at least 3 x 3, and CartPole-v1 has"):
            body_of(config, shape)
    assert body_of(config, (3, 3, 1)).num_features == 64


def test_buffers_are_the_same_in_every_process() -> None:
    networks = population("own buffers")
    torch.manual_seed(7)
    made = module_body(Projected, IMAGE)
    again = QNetworks.initialised(seeds=range(3), body=made, num_actions=3, observation_scale=(2.0,))
    torch.testing.assert_close(again(observations(networks)), networks(observations(networks)))


@pytest.mark.parametrize("body", ["mlp", "conv", "own"])
@pytest.mark.parametrize("num_atoms", [0, 4])
def test_networks_survive_saving(tmp_path: Path, body: str, num_atoms: int) -> None:
    own = layers if body == "own" else None
    config = DQNConfig(body="conv" if body == "conv" else "mlp", hidden_sizes=(5,), num_atoms=num_atoms)
    made = body_of(config, IMAGE, own)
    networks = QNetworks.initialised(seeds=range(3), body=made, num_actions=3, head=head_of(config))
    save_networks(tmp_path, networks, config)
    restored, again = load_networks(tmp_path, body=own)
    assert (again, restored.body, restored.head) == (config, made, networks.head)
    assert all(map(torch.equal, restored.tensors, networks.tensors))
    torch.testing.assert_close(restored(observations(networks)), networks(observations(networks)))
    if body == "own":
        with pytest.raises(CheckpointError, match=r"has no trained networks .*another body"):
            load_networks(tmp_path, body=Gated)
    assert json.loads((tmp_path / "config.json").read_text())["num_atoms"] == num_atoms
