"""What can be watched of a training while it runs: `live/population.json` in its run, replaced at milestones.

It has the return curves of the first agents, and for CartPole, which serving can draw, their latest networks. The run's
tag `live` has the number of updates at which it was taken and the time when the training was last heard of, so that a
reader fetches each state once and recognises a training that was killed. Taking and sending states costs at most a
hundredth of the training's time: the next one is left out as long as the earlier ones cost more.
"""

import base64
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from dqn.networks.onnx import ModelProperties, to_onnx
from dqn.networks.population import QNetworks
from dqn.training.metrics import Metrics
from dqn.training.state import TrainingState
from flows.failures.errors import one_line
from flows.tracking.attempt import FencedClient

FILE: Final = "live/population.json"
LIVE_TAG: Final = "live"
AGENTS: Final = 16
POINTS: Final = 128
"""Of each curve; of more, every second one is dropped."""
AGAIN_SECONDS: Final = 30.0
"""The tag's time is written again after so long without a new state."""
SHARE: Final = 0.01
"""Of the training's time, at most."""

logger = logging.getLogger(__name__)


class Live:
    """Takes the state of a training in its thread, and sends it to its run in the thread that writes metrics.

    Args:
        fenced: the tracking store.
        state: the training's.
        confirmed: whether this attempt was the newest a moment ago; only then is anything written.
        now: returns seconds.
        used: returns the CPU seconds of the calling thread.
    """

    def __init__(
        self,
        fenced: FencedClient,
        state: TrainingState,
        *,
        confirmed: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        self.seconds = 0.0
        """CPU seconds that this has taken so far."""
        self._fenced = fenced
        self._state = state
        self._confirmed = confirmed
        self._properties: ModelProperties | None = None
        self._now, self._used = now, used
        self._began = now()
        self._curves: dict[int, list[tuple[int, float]]] = {}
        self._taken: tuple[dict[str, Any], QNetworks | None] | None = None
        self._milestones = -1
        self._warned = False
        self._sent = 0
        self._told = 0.0

    def take(self, records: Sequence[Metrics]) -> None:
        """Note the records of a step, and take the state at the first call, at milestones and after evaluations."""
        began = self._used()
        due, self._milestones = len(self._state.milestones) != self._milestones, len(self._state.milestones)
        for record in records:
            due |= record.name == "eval/solved_fraction"
            if record.name == "train/episodic_return":
                for agent, step, value in zip(record.agent.tolist(), record.step.tolist(), record.value, strict=True):
                    if agent < AGENTS and (rounded := _rounded(value)) is not None:
                        curve = self._curves.setdefault(agent, [])
                        curve.append((step, rounded))
                        if len(curve) > POINTS:
                            del curve[-2::-2]  # from the last but one backwards: the newest stays
        if due and self.seconds <= SHARE * (self._now() - self._began):
            self._taken = self._content(), self._networks()
        self.seconds += self._used() - began

    def send(self) -> None:
        """Send the state that was taken last, once. A failure is a warning: training does not depend on viewers."""
        idle = self._taken is None and (not self._told or self._now() - self._told < AGAIN_SECONDS)
        if idle or not self._confirmed():
            return
        taken, self._taken = self._taken, None
        began = self._used()
        try:
            client = self._fenced.client
            if taken is not None:
                content, networks = taken
                if networks is not None:
                    for agent, model in zip(content["agents"], self._models(networks), strict=True):
                        agent["model"] = base64.b64encode(model).decode()
                client.log_text(self._fenced.run_id, json.dumps(content), FILE)
                self._sent = content["updates"]
            client.set_tag(self._fenced.run_id, LIVE_TAG, f"{self._sent} {int(time.time())}")
            self._told = self._now()
        except Exception as error:
            if not self._warned:
                logger.warning("this training cannot be watched while it runs: %s", one_line(error))
            self._warned = True
        self.seconds += self._used() - began

    def _content(self) -> dict[str, Any]:
        state, config = self._state, self._state.config
        learning = set(state.agents.tolist())
        agents = [
            {
                "agent": agent,
                "state": "solved" if state.solved[agent] else "diverged" if agent in state.diverged else
                "learning" if agent in learning else "ended",
                "mean_return": _rounded(state.last_return[agent]) if state.evaluations else None,
                "curve": list(self._curves.get(agent, ())),
                "model": "",
            }
            for agent in range(min(config.num_agents, AGENTS))
        ]  # fmt: skip
        return {
            "env_id": config.env_id,
            "updates": state.learner.updates,
            "max_updates": config.max_updates,
            "environment_steps": state.environment_steps,
            "num_agents": config.num_agents,
            "solved": None if config.acceptance_return is None else int(state.solved.sum()),
            "mean_return": _rounded(state.last_return[state.sound].mean()) if state.evaluations else None,
            "agents": agents,
        }

    def _networks(self) -> QNetworks | None:
        """Copies of the networks that play now: the evaluated ones, and of agents that have left the best ones."""
        state = self._state
        if not state.config.env_id.startswith("CartPole"):
            return None
        networks = state.best.select(torch.arange(min(state.config.num_agents, AGENTS)))
        rows = (state.agents < AGENTS).nonzero().squeeze(1)
        networks.assign(state.agents[rows], state.learner.evaluated.select(rows))
        return networks.on(torch.device("cpu"))

    def _models(self, networks: QNetworks) -> list[bytes]:
        if self._properties is None:  # makes an environment, which takes some milliseconds
            self._properties = ModelProperties.of(
                self._state.config, num_actions=networks.num_actions, run_id=self._fenced.run_id, agent=0
            )
        models = []
        for agent in range(min(self._state.config.num_agents, AGENTS)):
            world = self._state.config.world_of(agent)
            properties = dataclasses.replace(self._properties, agent=agent, world=world)
            models.append(to_onnx(networks.agent(agent), properties, observation_shape=networks.body.observation_shape))
        return models


def _rounded(value: Tensor) -> float | None:
    """To a tenth. None for what JSON has no number for, such as the mean of no agents."""
    return round(float(value), 1) if value.isfinite() else None
