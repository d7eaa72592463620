"""What a sweep tries, and what it may cost."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from dqn.config import DQNConfig
from dqn.presets import PRESETS, PresetName
from flows.errors import InputError
from flows.parameters import check_trainable
from flows.search.spaces import Space, check_space

Method = Literal["tpe", "random"]

RUNGS: Final[dict[str, tuple[int, ...]]] = {
    "cartpole": (75, 150, 300, 600),
    "acrobot": (4_000, 8_000, 16_000, 32_000),
    "mountaincar": (3_000, 6_000, 12_000, 24_000),
    "lunarlander": (4_500, 9_000, 18_000, 36_000),
}
"""Updates after which trials are compared, where a sweep names none."""

FINAL_SEEDS: Final = 4
"""Agents by which a finalist is judged: those of one configuration need from half to twice the updates of another."""

_BATCHES: Final = 8
_SMALLEST_BATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What a sweep tries, and what it may cost."""

    space: Space
    preset: PresetName = "cartpole"
    """Where every value comes from that is not searched."""
    method: Method = "tpe"
    """tpe: Optuna's estimator of good values; random: values drawn at random."""
    trials: int = 1_024
    """Configurations that are tried."""
    shard_trials: int = 128
    """Trials that are sampled and compared together, in one process; later shards learn from those before."""
    rungs: tuple[int, ...]
    """Updates after which the trials of a shard are compared."""
    keep: float = 0.5
    """Share of a shard's trials that goes on after each rung but the last."""
    episodes: int = 10
    """Greedy episodes of each comparison, on seeds of selection; five times as many at the last rung."""
    finalists: int = 4
    """Best trials that train anew side by side, several agents each, before one of them wins; 0 believes the first."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a method that there is not, which a study of another version may have."""
        if self.method not in get_args(Method):
            raise InputError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")

    @property
    def base(self) -> DQNConfig:
        """The preset."""
        return PRESETS[self.preset]

    @property
    def shards(self) -> int:
        """How many there are, but for the final."""
        return -(-self.trials // self.shard_trials)

    def is_final(self, shard: int) -> bool:
        """Whether this is the shard after all others, of the finalists."""
        return shard == self.shards

    def size(self, shard: int) -> int:
        """Trials of a shard; the last one before the final may have fewer."""
        if self.is_final(shard):
            return min(self.finalists, self.trials) * FINAL_SEEDS
        return min(self.shard_trials, self.trials - shard * self.shard_trials)

    def alive(self, shard: int, trials: int, rung: int) -> int:
        """How many of a shard's trials train up to a rung."""
        if self.is_final(shard):
            return trials
        return max(1, round(trials * self.keep**rung))

    def updates(self, shard: int) -> int:
        """Gradient updates that a shard may take, all its trials together."""
        steps = [last - first for first, last in zip((0, *self.rungs), self.rungs, strict=False)]
        return sum(self.alive(shard, self.size(shard), rung) * step for rung, step in enumerate(steps))

    @property
    def budget(self) -> int:
        """Gradient updates of the whole sweep; it is the same whatever the trials turn out to be worth."""
        return sum(self.updates(shard) for shard in range(self.shards + 1))

    def check(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            InputError: naming what was given, and what is expected.
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
    """Trials of a shard where a sweep names none: what one learns is of use to later ones alone."""
    return max(_SMALLEST_BATCH, -(-trials // _BATCHES))
