"""An adaptation's requests to the serving process, by HTTP."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np

from dqn.identification.record import Experience, UnexplainedError
from dqn.training.state import TrainingState
from flows.failures.errors import InputError, one_line

ADAPTATION_TAG: Final = "adaptation.drift"
"""Tag of runs that an adaptation has begun: the id of the drift."""
SHOW_TAG: Final = "adaptation.serving"
"""Tag of such a run: URL of the server that waits for it."""
_FLOATS: Final = ("observation", "push", "next_observation")
_INTEGERS: Final = ("action", "episode", "step")
_TIMEOUT: Final = 5.0
_TEXT: Final = 480

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Show:
    """A server, and the drift that it has detected."""

    url: str
    drift: str

    def experience(self, since: int) -> dict[str, Any]:
        """The transitions that were observed after the one with an id.

        Raises:
            httpx.HTTPError: if the server cannot be reached or refuses.
        """
        return self._get(f"/api/experience?since={since}")

    def status(self) -> dict[str, Any]:
        """The version that plays, and its latest episodes.

        Raises:
            httpx.HTTPError: if the server cannot be reached or refuses.
        """
        return self._get("/api/status")

    def tell(
        self,
        stage: str,
        text: str,
        *,
        progress: float | None = None,
        links: dict[str, str] | None = None,
        world: dict[str, Any] | None = None,
    ) -> None:
        """Report progress to the serving page. If the server cannot be reached or refuses it, a warning is logged.

        Args:
            stage: the state of the adaptation.
            text: a sentence about it; a long one is cut.
            progress: from 0 to 1, if it is known.
            links: pages about it, by name.
            world: the identified world, as JSON values; from then on the server expects it.
        """
        report = {
            "drift": self.drift,
            "stage": stage,
            "text": text[:_TEXT],
            "progress": progress,
            "links": dict(links or {}),
            "world": world,
        }
        token = os.environ.get("SERVING_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            httpx.post(f"{self.url}/api/adaptation", json=report, headers=headers, timeout=_TIMEOUT).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            logger.warning("%s could not be told of %r: %s", self.url, stage, one_line(error))

    def _get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.url}{path}", timeout=_TIMEOUT).raise_for_status().json()
        return answer


def require_shadow_steps(name: str, version: int, steps: int) -> None:
    """Require that a version has agreed with the champion in so many steps in the shadow of `SERVING_URL`'s server.

    Raises:
        InputError: if it has not, with what the server says.
    """
    url = (os.environ.get("SERVING_URL") or "http://127.0.0.1:8000").rstrip("/")
    try:
        answer = httpx.get(f"{url}/api/shadow", timeout=_TIMEOUT).raise_for_status().json()
        shadow = {"model": "", "challenger": "", "notice": "it has no --shadow", "reference": ""} | (answer or {})
        there = (shadow["model"], shadow["challenger"]) == (name, str(version))
        agreed, returned = (shadow["agreed"], shadow["canary"]["returned"]) if there else (0, "")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--shadow-steps reads {url}/api/shadow, which failed ({one_line(error)}): set SERVING_URL to the server, "
            "or leave the option out"
        ) from error
    if not there or shadow["notice"]:
        what = shadow["notice"] or f"{shadow['reference']!r} is version {shadow['challenger']} of {shadow['model']}"
        raise InputError(f"version {version} of {name} is not in the shadow at {url}: {what}")
    if returned:
        raise InputError(f"the server at {url} has returned version {version} of {name}: {returned}")
    if agreed < steps:
        raise InputError(
            f"version {version} of {name} has agreed with the champion in {agreed:,} steps in the shadow, and "
            f"--shadow-steps asks for {steps:,}: wait, or ask for fewer"
        )


def progress_of(tags: Mapping[str, str]) -> Callable[[TrainingState], None]:
    """A function that reports the progress of a training to its server. It does nothing if the tags name no server."""
    if ADAPTATION_TAG not in tags:
        return lambda _: None
    show = Show(url=tags[SHOW_TAG], drift=tags[ADAPTATION_TAG])

    def tell(state: TrainingState) -> None:
        config = state.config
        expected = config.learning_rate_decay_updates or config.max_updates
        done = min(state.learner.updates / expected, 1.0)
        text = f"update {state.learner.updates:,}, {len(state.agents)} of {config.num_agents} agents still learn"
        show.tell("training", text, progress=done)

    return tell


def as_experience(transitions: dict[str, Any], newest: int) -> Experience:
    """The newest transitions of an answer; its columns are lists.

    Raises:
        UnexplainedError: if a column is missing or not numeric, or the columns are no record of episodes.
    """
    try:
        floats = {name: np.array(transitions[name], dtype=np.float64) for name in _FLOATS}
        integers = {name: np.array(transitions[name], dtype=np.int64) for name in _INTEGERS}
        experience = Experience(
            observation=floats["observation"],
            push=floats["push"],
            next_observation=floats["next_observation"],
            action=integers["action"],
            episode=integers["episode"],
            step=integers["step"],
        )
    except UnexplainedError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnexplainedError(f"the experience is not a table of transitions: {one_line(error)}") from error
    return experience.newest(newest)
