"""The metric history of a run: every recorded value, in columns."""

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
"""Agent index of metrics of the whole population."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Values recorded together: one name; agent, step and value of N agents."""

    name: MetricName
    agent: Tensor
    """`[N]`, int64; `POPULATION` for the whole population"""
    step: Tensor
    """`[N]`, int64; environment steps of that agent"""
    value: Tensor
    """`[N]`, float64"""


class MetricHistory:
    """All records so far; part of the training state, so that a resumed run has all of them."""

    def __init__(self) -> None:
        self._records: list[Metrics] = []

    def append(self, name: MetricName, *, agent: Tensor, step: Tensor, value: Tensor) -> None:
        """Record values `[N]` of agents `[N]` at environment steps `[N]`."""
        if len(agent):
            self._records.append(Metrics(name=name, agent=agent, step=step, value=value.double().cpu()))

    def __len__(self) -> int:
        return len(self._records)

    def since(self, index: int) -> list[Metrics]:
        """Records from `index` on, oldest first; `index` is an earlier value of `len`."""
        return self._records[index:]

    def series(self, name: MetricName, agent: int) -> tuple[Tensor, Tensor]:
        """Steps `[N]` and values `[N]` of one metric of one agent, in recording order."""
        mine = [(record, record.agent == agent) for record in self._records if record.name == name]
        steps = [record.step[mask] for record, mask in mine]
        values = [record.value[mask] for record, mask in mine]
        if not steps:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        return torch.cat(steps), torch.cat(values)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Columns `metric`, `agent` (-1: population), `step` and `value`, with one row per value, oldest first.

        Accepted by `pandas.DataFrame`.
        """
        state = self.state_dict()
        names = np.array(NAMES)[state["name"].numpy()]
        columns = {column: state[column].numpy() for column in ("agent", "step", "value")}
        return {"metric": names.repeat(state["length"].numpy()), **columns}

    def state_dict(self) -> dict[str, Any]:
        """All records in five columns. The number of tensors does not grow with the run."""
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
