"""Evaluation of a registered version: its file in the registry, played on the version's own episodes."""

from dataclasses import dataclass
from typing import Any, Final

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from dqn.environments.spec import Environment, environment_spec
from dqn.environments.world import World
from dqn.evaluation.returns import episodic_returns
from dqn.evaluation.statistics import Floats
from dqn.experience.vector import describe
from dqn.seeding import further_seed, version_seed
from dqn.stress.baselines import stressed_baselines
from dqn.stress.robustness import ENVIRONMENT, StressTest, stress_test
from flows.failures.environments import of_environment
from flows.failures.errors import RegistryError
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.gate import LOOKS
from flows.registry.returns import TEST_MEAN, Returns, log_test
from flows.registry.versions import DIGEST_TAG, ORIGIN_TAG
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.store import connect, require_artifacts
from serving.policy import OnnxPolicy

EPISODES: Final = LOOKS[0]
SEED_TAG: Final = "eval.seed"
ROBUSTNESS_TAG: Final = "eval.robustness"


@step("evaluate elsewhere")
def evaluate_elsewhere(name: str, version: int, world: dict[str, Any], attempt: Attempt) -> str:
    """Play a version on its own episodes, but in another world. Returns the artifact with its returns.

    The artifact belongs to the run of the attempt: the registry's tags describe a version in its own world.
    """
    fenced = FencedClient(client=connect(), attempt=attempt)
    artifact = versions.download(name, version)
    seed = version_seed(version, episodes=EPISODES)
    returns = play(artifact.policy, World.from_dict(world), seed=seed)
    file = f"evaluation/version-{version}.json"
    members = play_members(artifact.policy, seed=seed)  # whatever the world, each is judged in its own
    content = {"returns": returns.tolist(), "seed": seed, "stress": None, "world": world, "members": members}
    fenced.checked().log_dict(attempt.run_id, content, file)
    return f"{fenced.client.get_run(attempt.run_id).info.artifact_uri}/{file}"


@step("evaluate")
def evaluate(name: str, version: int, attempt: Attempt | None = None, stressed: bool = True) -> str:
    """Play a version, as downloaded from the registry, on its own episodes. Returns the artifact with its returns.

    Args:
        name: of the registered model.
        version: the version to evaluate.
        attempt: the attempt that writes; None if a person promotes.
        stressed: whether to run the stress test too, which takes as long as a training and breaks ties.
    """
    client = connect()
    fenced = FencedClient(client=client, attempt=attempt)
    found = versions.get_version(client, name, version)
    artifact = versions.download(name, version)
    policy, played = artifact.policy, play_its_episodes(artifact, stressed=stressed)
    returns, stress, seed, run_id = played.returns, played.stress, played.seed, policy.metadata.run_id
    if TEST_MEAN not in versions.metrics_of(client, found):
        log_test(fenced.checked(), run_id, returns, model_id=versions.model_id_of(found))
    tags = {
        "eval.mean_return": f"{returns.mean():g}",
        "eval.min_return": f"{returns.min():g}",
        "eval.episodes": str(len(returns)),
        SEED_TAG: str(seed),
        DIGEST_TAG: artifact.sha256,
    }
    if played.members:
        tags["eval.members"] = ", ".join(f"{mean:g}" for mean in played.members)
    if stress:
        tags |= {
            ROBUSTNESS_TAG: f"{stress.robustness:.3f}",
            "eval.worst_cell": f"{stress.worst_cell}: {stress.shares[stress.worst_cell]:.0%}",
            "eval.single_push": f"{stress.push} N",
        }
    run = client.get_run(run_id)
    require_artifacts(run.info.artifact_uri)
    trained = f"run {run.info.run_name!r} (`{run_id}`), commit `{run.data.tags.get(MLFLOW_GIT_COMMIT, 'unknown')}`."
    versions.set_tags(fenced.checked(), name, version, tags)
    versions.describe(
        client,
        name,
        version,
        policy.metadata,
        training=found.tags.get(ORIGIN_TAG) or trained,
        evaluation=f"{_spread(returns)} {len(returns)} episodes that neither another version's evaluation nor "
        f"training used, seeds from {seed} on." + (f" Under stress: {stress}." if stress else ""),
    )
    file = f"evaluation/version-{version}.json"
    content = {
        "returns": returns.tolist(),
        "seed": seed,
        "stress": stress and stress.to_dict(),
        "members": list(played.members),
    }
    client.log_dict(run_id, content, file)
    return f"{run.info.artifact_uri}/{file}"


@dataclass(frozen=True, kw_only=True)
class Played:
    """What a version did on its own episodes."""

    returns: Returns
    """`[EPISODES]`"""
    stress: StressTest | None
    """None if there is no stress test."""
    seed: int
    """Of the first episode."""
    members: tuple[float, ...] = ()
    """Mean returns of the members of its bank, each in its own world."""


def play_its_episodes(artifact: versions.Artifact, *, stressed: bool = True) -> Played:
    """Play a version on its own episodes, and under stress; nothing is written.

    Raises:
        RegistryError: if it plays another environment than its model's, or cannot play it.
    """
    policy, env_id = artifact.policy, artifact.policy.metadata.env_id
    if versions.model_name(env_id) != artifact.name:  # first, as looking the environment up may import a module
        raise RegistryError(f"{artifact} plays {env_id}; its policies are versions of {versions.model_name(env_id)}")
    require_playable(artifact, policy.metadata.environment)
    seed = version_seed(artifact.version, episodes=EPISODES)
    return Played(
        returns=play(policy, policy.metadata.world, seed=seed),
        stress=under_stress(policy, policy.metadata.world, seed=seed) if stressed else None,
        seed=seed,
        members=play_members(policy, seed=seed),
    )


def play_members(policy: OnnxPolicy, *, seed: int) -> tuple[float, ...]:
    """Mean returns of the members of a policy's bank, each in its own world."""
    environment = policy.metadata.environment

    def mean(member: int, world: World) -> float:
        def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.integer]:
            return np.asarray(policy.member_q_values([member], observation).argmax(1))

        return float(episodic_returns(act, environment, world, num_episodes=EPISODES, seed=seed).mean())

    return tuple(mean(number, world) for number, world in enumerate(policy.metadata.members, 1))


def _spread(returns: Returns) -> str:
    low, high = returns.min(), returns.max()
    return (
        f"returns {low:g} in each of"
        if low == high
        else f"mean return {returns.mean():g}, from {low:g} to {high:g}, over"
    )


def play(
    policy: OnnxPolicy,
    world: World,
    *,
    seed: int,
    episodes: int = EPISODES,
    environment: Environment | None = None,
) -> Returns:
    """Returns `[episodes]` of a policy in a world, on the episodes of a seed; by default in its own environment."""
    environment = environment or policy.metadata.environment
    with of_environment(environment.env_id):
        return episodic_returns(policy.act, environment, world, num_episodes=episodes, seed=seed)


def play_on(
    policy: OnnxPolicy,
    world: World,
    returns: Floats,
    *,
    version: int,
    episodes: int,
    environment: Environment | None = None,
) -> Returns:
    """Returns `[episodes]` of a policy: the given ones `[N]`, and those of the challenger's further episodes.

    Args:
        policy: the challenger or the champion.
        world: the world that both play in.
        returns: of the policy's first episodes.
        version: of the challenger, which determines the episodes.
        episodes: the number of episodes in all.
        environment: that both play in; by default the policy's own.
    """
    seed = further_seed(version, episodes=LOOKS[-1] - EPISODES) + len(returns) - EPISODES
    more = play(policy, world, seed=seed, episodes=episodes - len(returns), environment=environment)
    return np.concatenate([returns, more])


def under_stress(policy: OnnxPolicy, world: World, *, seed: int) -> StressTest | None:
    """A policy's stress test around a world, on the episodes of a seed; None if its environment has none."""
    if policy.metadata.env_id != ENVIRONMENT:
        return None
    return stress_test(policy.act, world, episodes=EPISODES, seed=seed)


def read_played(uri: str) -> Played:
    """The artifact of `evaluate` or `evaluate_elsewhere`."""
    content = mlflow.artifacts.load_dict(uri)
    stress = StressTest.from_dict(content["stress"]) if content["stress"] else None
    return Played(
        returns=np.asarray(content["returns"]),
        stress=stress,
        seed=content["seed"],
        members=tuple(content.get("members", ())),
    )


def baselines(world: World) -> dict[str, StressTest]:
    """Stress tests of policies with four parameters around a world, in the same cells, by name.

    They take seconds and decide nothing, so call this after the promotion.
    """
    return stressed_baselines(world, episodes=EPISODES)


def require_playable(artifact: versions.Artifact, environment: str | Environment) -> None:
    """Refuse an artifact with a policy that cannot play an environment.

    Raises:
        RegistryError: naming the version and the mismatch.
    """
    metadata, env_id = artifact.policy.metadata, Environment.of(environment).env_id
    if metadata.env_id != env_id:
        raise RegistryError(f"{artifact} plays {metadata.env_id}, not {env_id}")
    spaces, given = describe(environment), (metadata.observation_shape, metadata.num_actions)
    wanted = (spaces.observation_shape, spaces.num_actions)
    if given != wanted:
        raise RegistryError(
            f"{artifact} takes {_sizes(given[0])} numbers and chooses among {given[1]} actions; {env_id} has "
            f"{_sizes(wanted[0])} and {wanted[1]}"
        )
    ordinary = np.random.default_rng(0).normal(size=(32, *wanted[0])).astype(np.float32)
    ordinary[0] = 0
    if not np.isfinite(artifact.policy.q_values(ordinary)).all():
        raise RegistryError(f"{artifact} gives Q-values that are not finite")


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def threshold_of(environment: str | Environment) -> float | None:
    """The environment's `reward_threshold`, if it has one."""
    return environment_spec(environment).reward_threshold
