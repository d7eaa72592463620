"""From a champion to one with members for other worlds: `python -m flows bank`, or the deployment `bank-dqn`."""

import dataclasses
import json
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from mlflow import MlflowClient

from dqn.bank import MOST, cover, space, to_bank
from dqn.environments.world import World
from dqn.evaluation.greedy import acting
from dqn.evaluation.returns import Act, episodic_returns
from dqn.networks.onnx import PARITY_TOLERANCE, ExportError, ModelProperties, export_onnx
from dqn.presets import PRESETS
from dqn.seeding import SELECTION, TEST, stream_seed
from dqn.stress.baselines import linear_policy, lqr
from dqn.stress.robustness import ENVIRONMENT
from flows.failures.errors import InputError
from flows.failures.interrupts import held, released
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.challenger import register
from flows.registry.champion import promote
from flows.registry.evaluation import evaluate, threshold_of
from flows.registry.gate_tag import undecided_if_ended
from flows.tracking.attempt import Attempt, FencedClient, begin
from flows.tracking.endings import failing
from flows.tracking.runs import complete_runs, describe_run, open_run, read_artifact
from flows.tracking.store import connect
from flows.training.population import check_writable, checkpoint_path, read_networks, read_summary
from flows.training.steps import finish, train
from serving.policy import OnnxPolicy

SHOWN: Final = (0, 1, 2, 4, 8, 16)
"""Numbers of members that the report states the coverage of, up to the number of agents that add a world."""
_MAX_UPDATES: Final = 2_000
_CHOOSING: Final = 320
"""Worlds in which members are chosen."""
_TESTED: Final = 200
"""Fresh worlds in which the coverage is measured."""
_CHOOSING_EPISODES: Final = 4
_TEST_EPISODES: Final = 10
_FILE: Final = "bank.json"


def bank_dqn(worlds: int = 64, members: int = MOST, seed: int = 0, checkpoint_dir: str = "checkpoints") -> str:
    """Train an agent in each of many worlds, and register the champion with those that add the most as one version.

    Args:
        worlds: number of random worlds around the champion's own, each with one agent.
        members: number of members at most; fewer if no more agent adds a world.
        seed: of the worlds and the training.
        checkpoint_dir: directory of the training state, which is kept until training is over.

    Returns:
        The report.
    """
    name = versions.model_name(ENVIRONMENT)
    with ExitStack() as stack:
        with held():
            attempt, champion = start(worlds, members, seed, checkpoint_dir)
            fenced = FencedClient(client=MlflowClient(), attempt=attempt)
            stack.enter_context(failing(fenced, checkpoint_path(checkpoint_dir, attempt.run_id)))
        run_id = train(attempt.run_id, checkpoint_dir, attempt)
        chosen = choose(run_id, champion, members, attempt)
        if not chosen["members"]:
            finish(attempt)
            return f"{chosen['report']}\nno agent adds a world: no version is registered"
        model_id, described = assemble(run_id, champion, chosen["members"], attempt)
        version = register(run_id, model_id, attempt, described)
        with undecided_if_ended(fenced, name, version):
            evaluation = evaluate(name, version, attempt, stressed=False)
            gate = promote(name, version, evaluation, attempt)
        finish(attempt)
        return f"{chosen['report']}\nmodels:/{name}/{version} {gate}"


@step("start bank", keeps_result=False)
def start(worlds: int, members: int, seed: int, checkpoint_dir: str) -> tuple[Attempt, int]:
    """Begin an attempt at the flow run's own run. Returns it and the champion's version."""
    with released():
        champion = check_request(worlds, members, checkpoint_dir)
        client = connect()
    own = versions.download(versions.model_name(ENVIRONMENT), champion).policy.metadata.world
    config = dataclasses.replace(
        PRESETS["cartpole"],
        seed=seed,
        num_agents=worlds,
        worlds=tuple(space(own, count=worlds, seed=stream_seed(seed, SELECTION, 0, 3))),
        max_updates=_MAX_UPDATES,
        acceptance_epsilon=0.0,  # few agents balance in a hard world with random actions too
        log_interval=100,
    )
    tags = {versions.BANKED_TAG: str(champion)}
    run_id = open_run(client, config, preset="cartpole", flow_run_id=flow_run_id(), tags=tags)
    attempt = begin(client, run_id)
    fenced = FencedClient(client=client, attempt=attempt)
    with failing(fenced, checkpoint_path(checkpoint_dir, run_id)), released():
        complete_runs(fenced, config, flow_run_id=flow_run_id())
    return attempt, int(client.get_run(run_id).data.tags[versions.BANKED_TAG])


def check_request(worlds: int, members: int, checkpoint_dir: str) -> int:
    """The champion's version; an impossible request is refused before anything starts.

    Raises:
        InputError: if a number is out of range, there is no champion, or checkpoints cannot be written.
        TrackingError: if MLflow cannot be reached.
    """
    if not 1 <= members <= MOST:
        raise InputError(f"members must be from 1 to {MOST}, got {members}")
    if not members <= worlds <= 1_024:
        raise InputError(f"worlds must be from members = {members} to 1024, got {worlds}")
    check_writable(checkpoint_dir)
    return versions.require(connect(), versions.model_name(ENVIRONMENT), versions.CHAMPION)


@step("choose members")
def choose(run_id: str, champion: int, most: int, attempt: Attempt) -> dict[str, Any]:
    """Choose the agents that add the most worlds to those that the champion balances with the change undone.

    Undoing swaps actions, subtracts a bias and bridges a delay exactly where the world is known. Worlds are therefore
    drawn without these, and the champion as it is stands for the champion undone.

    Returns:
        `members`, agents in the order of what they add; `coverage`, shares of fresh worlds by number of members, and of
        a linear-quadratic regulator of each world; `report`, the same as text.
    """
    client = connect()
    networks, config = read_networks(client, run_id)
    agents = [agent.agent for agent in read_summary(client, run_id).agents if agent.solved and agent.diverged is None]
    policy = versions.download(versions.model_name(ENVIRONMENT), champion).policy
    own = policy.metadata.world

    def covered(rows: list[int], count: int, episodes: int, stream: int) -> tuple[Any, Any, list[World]]:
        seed = stream_seed(config.seed, stream, 1)
        worlds = space(own, count=count, seed=seed)
        already = balanced(policy.act, worlds, policies=1, episodes=episodes, seed=seed)[0]
        act = acting(networks.select(torch.tensor(rows, dtype=torch.int64)), episodes=episodes, seed=seed)
        held = np.zeros((len(rows), count), np.bool_)
        if rows and not already.all():  # in the other worlds no member adds anything
            left = [world for world, done in zip(worlds, already, strict=True) if not done]
            held[:, ~already] = balanced(act, left, policies=len(rows), episodes=episodes, seed=seed)
        return held, already, worlds

    held, already, _ = covered(agents, _CHOOSING, _CHOOSING_EPISODES, SELECTION)
    order = [agents[row] for row in cover(held, already, max(SHOWN))]
    held, already, worlds = covered(order, _TESTED, _TEST_EPISODES, TEST)
    weights = np.repeat([lqr(world) for world in worlds], _TEST_EPISODES, axis=0)
    regulated = balanced(linear_policy(weights), worlds, policies=1, episodes=_TEST_EPISODES, seed=1)[0]
    counts = sorted({len(order), *(k for k in SHOWN if k < len(order))})
    coverage = {str(k): float((already | held[:k].any(0)).mean()) for k in counts}
    coverage |= {"LQR": float(regulated.mean()), "LQR and champion": float((regulated | already).mean())}
    said = _report(len(agents), config.num_agents, coverage)
    found = {"members": order[:most], "coverage": coverage, "report": said}
    fenced = FencedClient(client=client, attempt=attempt)
    fenced.checked().log_dict(run_id, found, _FILE)
    describe_run(fenced, said)
    return found


def balanced(act: Act, worlds: list[World], *, policies: int, episodes: int, seed: int) -> npt.NDArray[np.bool_]:
    """Whether policies reach the environment's threshold in the mean of some episodes, `[policies, worlds]`.

    `act` gets the rows of each world in turn, and in these `episodes` of each policy.
    """
    rows = len(worlds) * policies * episodes
    returns = episodic_returns(act, ENVIRONMENT, worlds, num_episodes=rows, seed=seed)
    means = returns.reshape(len(worlds), policies, episodes).mean(2).T
    return np.asarray(means >= (threshold_of(ENVIRONMENT) or 0.0))


@step("assemble bank")
def assemble(run_id: str, champion: int, members: list[int], attempt: Attempt) -> tuple[str, dict[str, str]]:
    """Log champion and members as one ONNX model. Returns its model id, and the tags of its version."""
    client = connect()
    networks, config = read_networks(client, run_id)
    agents = read_summary(client, run_id).agents
    artifact = versions.download(versions.model_name(ENVIRONMENT), champion)

    def exported(agent: int) -> bytes:
        properties = ModelProperties.of(
            config, num_actions=networks.num_actions, run_id=run_id, agent=agent, observed=agents[agent].observed
        )
        return export_onnx(networks, properties, load=lambda model: OnnxPolicy.load(model).q_values)

    files = [exported(agent) for agent in members]
    model = to_bank(artifact.content, files, run_id=run_id)
    require_same(OnnxPolicy.load(model), [artifact.content, *files])
    FencedClient(client=client, attempt=attempt).check()
    own = artifact.policy.metadata.world
    worlds = "; ".join(str(config.world_of(agent)) for agent in members)
    described = {
        "world": str(own),
        versions.WORLD_TAG: json.dumps(own.to_dict()),
        versions.BANKED_TAG: str(champion),
        "bank": f"{len(members)} members: {worlds}",
    }
    return versions.log_model(run_id, model), described


def require_same(bank: OnnxPolicy, files: list[bytes]) -> None:
    """Check that a bank plays its champion to the bit, and each member within rounding.

    Raises:
        ExportError: naming the first that differs; 0 is the champion.
    """
    observations = np.random.default_rng(0).normal(size=(1_000, *bank.metadata.observation_shape)).astype(np.float32)
    for number, file in enumerate(files):
        expected = OnnxPolicy.load(file).q_values(observations)
        actual = bank.member_q_values([number], observations) if number else bank.q_values(observations)
        if np.abs(actual - expected).max() > bool(number) * PARITY_TOLERANCE * np.abs(expected).max():
            raise ExportError(f"policy {number} of the bank computes other Q-values than the one that it was made of")


def read_coverage(client: MlflowClient, run_id: str) -> dict[str, float]:
    """What `choose` measured in a run."""
    return dict(read_artifact(client, run_id, _FILE)["coverage"])


def _report(accepted: int, agents: int, coverage: dict[str, float]) -> str:
    lines = [f"{accepted} of {agents} agents were accepted, each in its own world."]
    lines.append(f"Of {_TESTED} fresh worlds without reversed motor, bias and delay, which are undone anyway:")
    numbers = [(count, share) for count, share in coverage.items() if count.isdecimal()]
    lines += [f"  the champion with {count} members balances {share:.1%}" for count, share in numbers]
    lines.append(f"  a linear-quadratic regulator of the known world balances {coverage['LQR']:.1%}, and")
    lines.append(f"  it or the champion {coverage['LQR and champion']:.1%}")
    return "\n".join(lines)
