"""Steps of an episode."""

from typing import Any

from serving.episodes.simulation import Step


def step(index: int, action: int, before: Any, after: Any, push: float = 0.0) -> Step:
    return Step(
        index=index,
        observation=tuple(map(float, before)),
        q_values=(),
        action=action,
        reward=1.0,
        episodic_return=index + 1.0,
        push=push,
        terminated=False,
        truncated=False,
        next_observation=tuple(map(float, after)),
    )
