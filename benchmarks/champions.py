"""How often the gate replaces the champion by another training of the same configuration.

    python -m benchmarks.champions                              # 20 versions, seeds 0 to 19
    python -m benchmarks.champions --num-agents 16

Each version plays its own test episodes, and the champion plays the same. No server is needed.
"""

import argparse
import dataclasses
from typing import Any

from benchmarks.contestants import warm_up
from benchmarks.harness import table, write
from dqn.networks.onnx import ModelProperties, export_onnx
from dqn.presets import PRESETS
from dqn.seeding import version_seed
from dqn.stress.finalists import stressed
from dqn.training.loop import train
from dqn.training.machine import torch_threads
from flows.registry.evaluation import EPISODES, play, play_on, threshold_of, under_stress
from flows.registry.gate import Champion, should_promote
from serving.policy import OnnxPolicy


def main() -> None:
    """Train, judge, print one row for each version and write them to `results/champions.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--num-agents", type=int, default=4)
    arguments = parser.parse_args()
    warm_up()
    champion: tuple[int, OnnxPolicy] | None = None
    rows: list[dict[str, Any]] = []
    for version in range(1, arguments.versions + 1):
        policy = trained(seed=version - 1, num_agents=arguments.num_agents)
        env_id, world, seed = policy.metadata.env_id, policy.metadata.world, version_seed(version, episodes=EPISODES)
        returns, stress = play(policy, world, seed=seed), under_stress(policy, world, seed=seed)
        rival = None
        if champion:
            number, playing = champion
            rival = Champion(
                version=number,
                returns=play(playing, world, seed=seed),
                stress=under_stress(playing, world, seed=seed),
            )
        decision = should_promote(returns, threshold_of(env_id), rival, stress)
        while champion and rival and rival.returns is not None and decision.episodes:
            more: dict[str, Any] = {"version": version, "episodes": decision.episodes}
            returns = play_on(policy, world, returns, **more)
            rival = dataclasses.replace(rival, returns=play_on(champion[1], world, rival.returns, **more))
            decision = should_promote(returns, threshold_of(env_id), rival, stress)
        if decision.promote:
            champion = version, policy
        rows.append(
            {
                "version": version,
                "mean return": float(returns.mean()),
                "robustness": stress.robustness if stress else float("nan"),
                "champion's": rival.stress.robustness if rival and rival.stress else float("nan"),
                "promoted": decision.promote,
                "gate": decision.gate.partition(":")[2].split(":")[0].strip(),
            }
        )
        print(table(rows[-1:]), flush=True)
    print(f"{sum(row['promoted'] for row in rows)} champions in {len(rows)} versions")
    print(f"written to {write('champions', rows)}")


def trained(*, seed: int, num_agents: int) -> OnnxPolicy:
    """The policy that a training on CartPole would register."""
    config = dataclasses.replace(PRESETS["cartpole"], seed=seed, num_agents=num_agents)
    with torch_threads(config.num_threads):
        result = stressed(train(config))
    best = result.agents[result.best_agent]
    properties = ModelProperties.of(config, num_actions=2, run_id="0" * 32, agent=best.agent, observed=best.observed)
    return OnnxPolicy.load(export_onnx(result.best, properties, load=lambda model: OnnxPolicy.load(model).q_values))


if __name__ == "__main__":
    main()
