"""The metric history of a run: every value ever recorded, in columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MetricName = Literal[
    "train/episodic_return",
    "train/td_loss",
    "train/epsilon",
    "train/q_value",
    "eval/mean_return",
    "eval/iqm_return",
    "eval/solved_fraction",
]
NAMES: Final[tuple[MetricName, ...]] = get_args(MetricName)
POPULATION: Final = -1
"""In place of an agent: a metric of the whole population."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Values recorded together: one name, N agents, steps and values."""

    name: MetricName
    agent: Tensor
    """`[N]`, int64; `POPULATION` for the whole population"""
    step: Tensor
    """`[N]`, int64; environment steps of that agent"""
    value: Tensor
    """`[N]`, float64"""


class MetricHistory:
    """Everything recorded so far, part of the training state so that a resumed run has all of it."""

    def __init__(self) -> None:
        self._records: list[Metrics] = []

    def append(self, name: MetricName, *, agent: Tensor, step: Tensor, value: Tensor) -> None:
        """Record values `[N]` of agents `[N]` at steps `[N]`."""
        if len(agent):
            self._records.append(Metrics(name=name, agent=agent, step=step, value=value.double().cpu()))

    def __len__(self) -> int:
        return len(self._records)

    def since(self, index: int) -> list[Metrics]:
        """Records from `index` on, oldest first; `index` is an earlier `len`."""
        return self._records[index:]

    def series(self, name: MetricName, agent: int) -> tuple[Tensor, Tensor]:
        """Steps `[N]` and values `[N]` of one metric of one agent, in the order recorded."""
        mine = [(record, record.agent == agent) for record in self._records if record.name == name]
        steps = [record.step[mask] for record, mask in mine]
        values = [record.value[mask] for record, mask in mine]
        if not steps:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        return torch.cat(steps), torch.cat(values)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Every value as a row of `metric`, `agent` (-1: the population), `step` and `value`, oldest first.

        `pandas.DataFrame` takes it as it is.
        """
        state = self.state_dict()
        names = np.array(NAMES)[state["name"].numpy()]
        columns = {column: state[column].numpy() for column in ("agent", "step", "value")}
        return {"metric": names.repeat(state["length"].numpy()), **columns}

    def state_dict(self) -> dict[str, Any]:
        """All records in five columns; the number of tensors does not grow with the run."""
        records = self._records
        empty = torch.zeros(0, dtype=torch.int64)
        return {
            "name": torch.tensor([NAMES.index(record.name) for record in records], dtype=torch.int64),
            "length": torch.tensor([len(record.agent) for record in records], dtype=torch.int64),
            "agent": torch.cat([record.agent for record in records]) if records else empty,
            "step": torch.cat([record.step for record in records]) if records else empty,
            "value": torch.cat([record.value for record in records]) if records else empty.double(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._records = list(_records(state))


def _records(state: dict[str, Any]) -> Iterator[Metrics]:
    lengths = state["length"].tolist()
    columns = zip(*(state[column].split(lengths) for column in ("agent", "step", "value")), strict=True)
    for name, (agent, step, value) in zip(state["name"].tolist(), columns, strict=True):
        yield Metrics(name=NAMES[name], agent=agent, step=step, value=value)
