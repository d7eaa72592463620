"""One policy that plays in a show."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from serving.episodes.simulation import Simulation, Step
from serving.models.served import ServedModel

_HISTORY: Final = 60


@dataclass
class Player:
    """One policy of the show, in an environment of its own."""

    reference: str
    """Version number or alias; empty for the current version."""
    served: ServedModel
    simulation: Simulation
    last: Step | None = None
    episodic_return: float = 0.0
    history: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))


def _believed(simulation: Simulation) -> list[float] | None:
    """The observation where sensors are between it and the state."""
    if not (simulation.world.sensor_bias or simulation.world.sensor_noise):
        return None
    return [round(value, 4) for value in simulation.observation]
