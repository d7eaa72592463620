"""The settings of a sweep, and its budget."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from dqn.config import DQNConfig
from dqn.presets import PRESETS, PresetName
from flows.failures.errors import InputError
from flows.request.parameters import check_trainable
from flows.search.spaces import Space, check_space

Method = Literal["tpe", "random"]

RUNGS: Final[dict[str, tuple[int, ...]]] = {
    "cartpole": (75, 150, 300, 600),
    "acrobot": (4_000, 8_000, 16_000, 32_000),
    "mountaincar": (3_000, 6_000, 12_000, 24_000),
    "lunarlander": (4_500, 9_000, 18_000, 36_000),
}
"""Updates after which trials are compared, if a sweep names none."""

FINAL_SEEDS: Final = 4
"""Agents of each finalist: the updates that two agents of one configuration need differ by up to a factor of two."""

_BATCHES: Final = 8
_SMALLEST_BATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The settings of a sweep."""

    space: Space
    preset: PresetName = "cartpole"
    """Source of every value that is not searched, and of the environment."""
    method: Method = "tpe"
    """tpe: Optuna's estimator of good values; random: values drawn at random."""
    trials: int = 1_024
    """Number of configurations to try."""
    shard_trials: int = 128
    """Trials that are sampled and compared together, in one process. Later shards learn from earlier ones."""
    rungs: tuple[int, ...]
    """Updates after which the trials of a shard are compared."""
    keep: float = 0.5
    """Share of a shard's trials that continues after each rung but the last."""
    episodes: int = 10
    """Greedy episodes per comparison, on selection seeds; five times as many at the last rung."""
    finalists: int = 4
    """Best trials that are trained again, by several agents each, to choose the winner; 0 takes the best trial."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown method; a study in the storage may name one that another version had."""
        if self.method not in get_args(Method):
            raise InputError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")

    @property
    def base(self) -> DQNConfig:
        """The preset."""
        return PRESETS[self.preset]

    @property
    def shards(self) -> int:
        """Number of shards, without the final."""
        return -(-self.trials // self.shard_trials)

    def is_final(self, shard: int) -> bool:
        """Whether this is the shard of the finalists, which comes after all others."""
        return shard == self.shards

    def size(self, shard: int) -> int:
        """Number of trials of a shard; the last one before the final may be smaller."""
        if self.is_final(shard):
            return min(self.finalists, self.trials) * FINAL_SEEDS
        return min(self.shard_trials, self.trials - shard * self.shard_trials)

    def alive(self, shard: int, trials: int, rung: int) -> int:
        """Number of a shard's trials that train up to a rung."""
        if self.is_final(shard):
            return trials
        return max(1, round(trials * self.keep**rung))

    def updates(self, shard: int) -> int:
        """Gradient updates of a shard, all its trials together, if none diverges."""
        steps = [last - first for first, last in zip((0, *self.rungs), self.rungs, strict=False)]
        return sum(self.alive(shard, self.size(shard), rung) * step for rung, step in enumerate(steps))

    @property
    def budget(self) -> int:
        """Gradient updates of the whole sweep, if no trial diverges; independent of the returns."""
        return sum(self.updates(shard) for shard in range(self.shards + 1))

    def check(self) -> None:
        """Refuse settings that cannot be searched.

        Raises:
            InputError: naming the value that was given, and what is expected.
        """
        if self.preset not in RUNGS:
            raise InputError(f"the preset {self.preset!r} is not searched; those that are: {', '.join(RUNGS)}")
        for name in ("trials", "shard_trials", "episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.finalists < 0:
            raise InputError(f"finalists must be 0 or more, got {self.finalists}")
        if not 0 < self.keep < 1:
            raise InputError(f"keep must be a share between 0 and 1, got {self.keep}")
        if not self.rungs or any(b <= a for a, b in zip((0, *self.rungs), self.rungs, strict=False)):
            raise InputError(f"rungs must be numbers of updates that rise, got {self.rungs}")
        check_trainable(dataclasses.replace(self.base, num_agents=1))
        check_space(self.space, self.base)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**dataclasses.asdict(self), "space": self.space.to_dict()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "SweepConfig":
        """Inverse of `to_dict`."""
        return cls(**{**content, "space": Space.from_dict(content["space"]), "rungs": tuple(content["rungs"])})


def batch_size(trials: int) -> int:
    """Trials of a shard, if a sweep names none: several shards, because the sampler learns between shards only."""
    return max(_SMALLEST_BATCH, -(-trials // _BATCHES))
