"""The training that runs now: its population's curves and networks, as the run shows them while it runs.

The tracking server is asked only while a client listens to `Training.events`. The networks are played only for a client
that asks for their poles.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from serving.deadlines import begin
from serving.episodes.simulation import play
from serving.errors import PolicyError, RegistryUnavailableError, UnknownModelError
from serving.models.follower import Models
from serving.models.loader import in_thread
from serving.models.served import ServedModel
from serving.models.source import RunningTraining, Version

AGENTS: Final = 16
SEED: Final = 0
LOOK_SECONDS: Final = 2.0
"""From one look at a training that runs to the next."""
SELDOM_SECONDS: Final = 10.0
"""The same while none runs."""
SILENT_SECONDS: Final = 120.0
"""A training that was not heard of for so long was killed, or its machine is away."""
DECIDING_SECONDS: Final = 900.0
"""The same after training: testing and the gate take some time."""
_LIMIT_SECONDS: Final = 20.0
_CARTPOLE: Final = "CartPole"
_USUAL_LENGTH: Final = 0.5
T = TypeVar("T")

Curve = Annotated[list[tuple[int, float]], Meta(max_length=128)]


class Agent(Struct, frozen=True, kw_only=True):
    """One of the first agents of the population."""

    agent: int
    state: Literal["learning", "solved", "diverged", "ended"]
    mean_return: float | None = None
    """Greedy, in the latest evaluation; None before the first."""
    curve: Curve
    """Environment steps, and the mean return of the exploring episodes that had ended there."""
    model: bytes = b""
    """Its network as ONNX; empty where the server cannot draw its environment."""


class Population(Struct, frozen=True, kw_only=True):
    """The content of `live/population.json`."""

    env_id: str
    updates: int
    max_updates: int
    environment_steps: int
    num_agents: int
    solved: int | None
    """None if the environment has no return that solves it."""
    mean_return: float | None
    """Of the latest evaluation; None before the first."""
    agents: Annotated[list[Agent], Meta(max_length=AGENTS)]


class Seen(Struct, frozen=True, kw_only=True):
    """What a client is told; each event has one as JSON."""

    why: str = ""
    """Why there is nothing to see, as a sentence; empty if a training runs."""
    title: str = ""
    said: str = ""
    """How far it is, in a sentence."""
    url: str = ""
    """Its page in MLflow; empty if this server knows no address."""
    population: Population | None = None
    """The latest state, without networks; None before the first."""
    poles: str = ""
    """Differs for each state that has poles; empty without."""


class Pole(Struct, frozen=True, kw_only=True):
    """An episode of one agent's network. All begin in the same state."""

    agent: int
    length: float
    """Half the pole's length in metres."""
    states: list[tuple[float, float]]
    """`[steps + 1]`: the cart's position in metres and the pole's angle in radians."""
    terminated: bool


class Poles(Struct, frozen=True, kw_only=True):
    """The population's episodes at its latest state."""

    updates: int
    poles: list[Pole]


class Training:
    """Belongs to one event loop. `clock` gives seconds since 1970."""

    def __init__(self, models: Models, *, mlflow_url: str = "", clock: Callable[[], float] = time.time) -> None:
        self._models = models
        self._mlflow_url = mlflow_url
        self._clock = clock
        self._playing = asyncio.Lock()
        self._closing = asyncio.Event()
        self._due = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._asked: Future[Any] | None = None
        self._seen = Seen(why="nothing was looked for yet")
        self._read: tuple[str, Population] | None = None
        self._played: tuple[str, Poles | ValueError] | None = None

    async def events(self) -> AsyncGenerator[bytes]:
        """Server-sent events: what is seen, at once and whenever it differs; comments in between."""
        told: Seen | None = None
        while not self._closing.is_set():
            seen = await self.look()
            yield b":\n\n" if seen == told else b"data: " + msgspec.json.encode(seen) + b"\n\n"
            told = seen
            try:
                await asyncio.wait_for(self._closing.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue

    def close(self) -> None:
        """End every stream."""
        self._closing.set()

    async def look(self) -> Seen:
        """What is seen now. All clients share one look, which is not repeated for some seconds."""
        if self._looking is None and self._clock() >= self._due:
            self._looking = asyncio.create_task(self._renew())
        if self._looking:
            await asyncio.shield(self._looking)  # a client that leaves does not end it
        return self._seen

    async def poles(self) -> Poles:
        """The episodes of the networks in the state that was seen last, played once, even if that fails.

        Raises:
            UnknownModelError: if there is no such state.
            PolicyError: if a network is invalid.
        """
        async with self._playing:
            if self._read is None or not self._seen.poles:
                raise UnknownModelError(self._seen.why or "no networks of this training can be drawn")
            key, population = self._read
            if self._played is None or self._played[0] != key:
                try:
                    self._played = key, await in_thread(_play, self._models.name, population)
                except ValueError as error:
                    self._played = key, error
            if isinstance(played := self._played[1], ValueError):
                raise played.with_traceback(None)
            return played

    async def _renew(self) -> None:
        try:
            self._seen = await self._look()
            self._due = self._clock() + (SELDOM_SECONDS if self._seen.why else LOOK_SECONDS)
        finally:
            self._looking = None

    async def _look(self) -> Seen:
        source = self._models.source
        try:
            running = newest(await self._limited(source.trainings), self._clock())
            if running is None:
                return Seen(why="no training runs now")
            updates = running.live.partition(" ")[0]
            key = f"{running.run_id} {updates}"
            if updates and (self._read is None or self._read[0] != key):
                content = await self._limited(lambda: source.population(running))
                self._read = key, msgspec.json.decode(content, type=Population)
        except (UnknownModelError, RegistryUnavailableError, PolicyError) as error:
            return Seen(why=str(error))
        except TimeoutError:
            return Seen(why=f"the tracking server has not answered within {_LIMIT_SECONDS:g} s")
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return Seen(why=f"what the run shows of itself is not as training leaves it: {error}")
        where = f"{self._mlflow_url}/#/experiments/{running.experiment_id}/runs/{running.run_id}"
        population = self._read[1] if updates and self._read else None
        drawn = population is not None and all(agent.model for agent in population.agents)
        return Seen(
            title=f"{'Trained, and being tested' if running.trained else 'A training runs'}: {running.name}",
            said=_said(population) if population else "It has begun.",
            url=where if self._mlflow_url else "",
            population=population and _without_networks(population),
            poles=key if drawn else "",
        )

    async def _limited(self, function: Callable[[], T]) -> T:
        """The function's result, from a thread.

        Raises:
            TimeoutError: after `_LIMIT_SECONDS`, and at once while an earlier thread still hangs.
        """
        if self._asked and not self._asked.done():
            raise TimeoutError
        self._asked = asked = begin(function)
        async with asyncio.timeout(_LIMIT_SECONDS):
            return await asyncio.wrap_future(asked)


def newest(trainings: Sequence[RunningTraining], now: float) -> RunningTraining | None:
    """The newest training that was heard of lately; a killed one stays "running" for its tracking server."""
    for training in trainings:
        _, _, heard = training.live.partition(" ")
        last = float(heard) if heard.isdecimal() else training.started
        if now - last <= (DECIDING_SECONDS if training.trained else SILENT_SECONDS):
            return training
    return None


def _said(population: Population) -> str:
    parts = [f"Update {population.updates:,} of {population.max_updates:,} at most"]
    if population.solved is not None:
        parts.append(f"{population.solved} of {population.num_agents} agents solved it")
    if population.mean_return is not None:
        parts.append(f"mean return {population.mean_return:g}")
    more = f" The first {AGENTS} of {population.num_agents} are shown." if population.num_agents > AGENTS else ""
    return f"{', '.join(parts)}.{more}"


def _without_networks(population: Population) -> Population:
    agents = [msgspec.structs.replace(agent, model=b"") for agent in population.agents]
    return msgspec.structs.replace(population, agents=agents)


def _play(name: str, population: Population) -> Poles:
    poles = list[Pole]()
    for agent in population.agents:
        served = ServedModel.load(name, Version(number=str(agent.agent), source=""), agent.model)
        policy = served.policy
        if not policy.metadata.env_id.startswith(_CARTPOLE):
            raise PolicyError(f"poles are CartPole's, not {policy.metadata.env_id[:80]}'s")
        steps = list(play(policy, seed=SEED))
        seen = [*(step.observation for step in steps), steps[-1].next_observation]
        states = [(round(x, 3), round(theta, 4)) for x, _, theta, _ in seen]
        given = policy.metadata.world.length
        length = sum(given) / 2 if isinstance(given, tuple) else given or _USUAL_LENGTH
        poles.append(Pole(agent=agent.agent, length=length, states=states, terminated=steps[-1].terminated))
    return Poles(updates=population.updates, poles=poles)
