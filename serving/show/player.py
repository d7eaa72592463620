"""One policy that plays in a show, and the frame that shows it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from serving.episodes.simulation import Simulation, Step
from serving.inference.shadow import Shadow
from serving.metrics.metrics import Metrics
from serving.models.served import ServedModel

_HISTORY: Final = 60


@dataclass
class Player:
    """One policy of a show, in an environment of its own."""

    reference: str
    """Version number or alias; empty for the current version."""
    served: ServedModel
    simulation: Simulation
    last: Step | None = None
    episodic_return: float = 0.0
    history: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def count(self, metrics: Metrics, shadow: Shadow | None) -> None:
        """Count the input of its last step, and have a challenger answer it in the shadow."""
        assert self.last
        observation = np.array([self.last.observation], np.float32)
        q_values = np.array([self.last.q_values], np.float32)
        metrics.inputs.of(self.served, "show").add(observation, q_values)
        if shadow and observation.size:  # a large image is not kept
            shape = self.served.policy.metadata.observation_shape
            shadow.offer(self.served, observation.reshape(1, *shape), q_values, "show")


def frame(players: Sequence[Player], *, episode: int, step: int) -> str:
    """One step of a show as JSON, with one entry a player in each list.

    `e` episode, `k` step, `s` states, `b` observations (null where they equal the state), `q` Q-values, `a` actions,
    `r` episodic returns, `o` whether the episode is over, `p` the push of this step in N.
    """
    last = [player.last for player in players]
    fields = {
        "e": episode,
        "k": step,
        "s": [[round(value, 4) for value in player.simulation.state] for player in players],
        "b": [_observed(player.simulation) for player in players],
        "q": [[round(value, 5) for value in each.q_values] if each else None for each in last],
        "a": [each.action if each else None for each in last],
        "r": [player.episodic_return for player in players],
        "o": [player.simulation.over for player in players],
        "p": max((each.push for each in last if each and each.index == step - 1), default=0.0, key=abs),
    }
    return msgspec.json.encode(fields).decode()


def _observed(simulation: Simulation) -> list[float] | None:
    """The observation, if noise or a bias makes it differ from the state."""
    if not (simulation.world.sensor_bias or simulation.world.sensor_noise):
        return None
    return [round(value, 4) for value in simulation.observation]
