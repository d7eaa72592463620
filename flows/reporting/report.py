"""The report of a finished training run."""

import base64
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Final

import mlflow
import numpy as np
from mlflow import MlflowClient

from dqn.evaluation.statistics import bootstrap_interval, interquartile_mean
from dqn.stress.robustness import StressTest
from dqn.training.result import AgentResult
from flows.orchestration.flow_run import flow_run_id
from flows.orchestration.step import step
from flows.registry import versions
from flows.registry.champion import read_comparison
from flows.registry.evaluation import baselines, read_played
from flows.registry.gate import CONFIDENCE
from flows.registry.returns import Returns, read_returns
from flows.reporting.draw import LEARNING_CURVES
from flows.tracking.attempt import Attempt, FencedClient
from flows.tracking.pages import LOCAL_UI, absolute_uri, run_page, version_page
from flows.tracking.runs import config_of, describe_run, has_artifact
from flows.tracking.store import connect
from flows.training.population import PopulationSummary, read_summary
from serving.commands import command

REPORT: Final = "report.md"
_DESCRIPTION: Final = 6_000
"""Characters of the report in a run's description. MLflow cuts that at 8,000; the rest describes the training."""
_LEFT_OUT: Final = 60
"""Characters of the sentence about agents that are left out."""
_COLUMNS: Final = ("agent", "solved", "mean return", "min return", "updates", "environment steps")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished training run."""

    run_id: str
    experiment: str
    """Id of the run's experiment."""
    env_id: str
    acceptance_return: float | None
    """The return of a solved agent in every episode; None if there is no such condition."""
    version: int
    gate: str
    population: PopulationSummary
    returns: Returns
    """`[A, episodes]` on unseen episodes"""
    stress: StressTest | None = None
    """Of the registered version; None if there is no stress test."""
    comparison: dict[str, Any] = field(default_factory=dict)
    """`flows.registry.gate.Comparison.to_dict` with the champion; empty if there was none."""
    baselines: dict[str, StressTest] = field(default_factory=dict)
    """Stress tests of policies with four parameters, by name."""

    @property
    def uri(self) -> str:
        """URI of the registered version."""
        return f"models:/{versions.model_name(self.env_id)}/{self.version}"

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """One row for each agent, with the columns of `_COLUMNS`."""
        return [
            _row(agent, mine, solvable=self.acceptance_return is not None)
            for agent, mine in zip(self.population.agents, self.returns, strict=True)
        ]

    @property
    def totals(self) -> str:
        """One sentence about the population."""
        agents, episodes = self.returns.shape
        time = f"Training took {self.population.seconds:.1f} s ({self.population.cpu_seconds:.1f} CPU-seconds)."
        sound = np.array([agent.diverged is None for agent in self.population.agents])
        if gone := [agent for agent in self.population.agents if agent.diverged is not None]:
            time += f" Diverged and left, and counted in no mean: {'; '.join(map(_diverged, gone))}."
        if self.acceptance_return is None:
            return f"{_mean_return(self.returns[sound].mean(1))}, {episodes} unseen episodes each. {time}"
        solved = sum(agent.solved for agent in self.population.agents)
        perfect = int(((self.returns >= self.acceptance_return).all(1) & sound).sum())
        return (
            f"{solved} of {agents} agents solved; {perfect} of {agents} return {self.acceptance_return:g} in every one "
            f"of {episodes} unseen episodes. {time}"
        )

    @property
    def verdict(self) -> str:
        """One sentence about the registered version."""
        return f"{self.uri} (agent {self.population.best.agent:02d}) {self.gate}"

    @property
    def withstood(self) -> str:
        """The stress tests of the version and of the policies with four parameters, one line each; or nothing."""
        if not self.stress:
            return ""
        return "\n".join(
            [f"under stress: {self.stress}", *(f"  {name}: {test}" for name, test in self.baselines.items())]
        )

    @property
    def compared(self) -> str:
        """A sentence that compares candidate and champion; empty if the gate compared nothing."""
        found = self.comparison
        if not found:
            return ""
        (mean, low, high), (share, fewer, more) = found["difference"], found["difference in failures"]
        champion, failures = found["champion's mean return"], found["champion's failures"]
        return (
            f"Compared with the champion on {found['episodes']} episodes, each bound with {CONFIDENCE:.0%} confidence: "
            f"mean return {found['mean return']:g}, the champion {champion:g}, difference {mean:.3g} "
            f"({low:.3g} to {high:.3g}, margin {found['margin']:.3g}); {found['failures']} episodes below "
            f"{found['failing below']:.4g}, the champion {failures}, difference {share:.1%} "
            f"({fewer:.1%} to {more:.1%}, margin {found['margin of failures']:.0%})."
        )

    @property
    def cells(self) -> str:
        """Share of episodes without a fall in each cell, as a markdown table with a row for each policy; or nothing."""
        if not self.stress:
            return ""
        rows = [
            (name, *(f"{share:.0%}" for share in test.shares.values()), f"{test.push} N")
            for name, test in {f"version {self.version}": self.stress, **self.baselines}.items()
        ]
        return _markdown_table(("no fall under stress", *self.stress.shares, "single push"), rows)

    def text(self) -> str:
        """The report for a terminal."""
        serve, what = versions.serve_command(self.env_id), "the champion"
        if not self.gate.startswith("passed"):
            serve, what = versions.serve_command(self.env_id, self.uri), "this version"
        next_steps = [(serve, f"play {what} in the browser, http://127.0.0.1:8000")]
        next_steps += where_results_are(self)
        steps = "\n".join(f"  {command}  # {what}" for command, what in next_steps)
        verdict = "\n".join(filter(None, (self.verdict, self.compared, self.withstood)))
        return f"{_aligned(_COLUMNS, self.rows)}\n\n{self.totals}\n{verdict}\n\nrun {self.run_id}\n{steps}"

    def markdown(self, room: float = math.inf) -> str:
        """The report for a page. Where it would exceed `room` characters, the last agents are left out and counted."""
        version = f"`{self.uri}` (agent {self.population.best.agent:02d}) {self.gate}"
        above = "\n\n".join(filter(None, (self.totals, version, self.compared, self.cells)))
        lines = _markdown_table(_COLUMNS, self.rows).splitlines()
        if len(above) + sum(len(line) + 1 for line in lines) + 1 <= room:
            return "\n".join((above, "", *lines))
        ends = itertools.accumulate((len(line) + 1 for line in lines), initial=len(above) + _LEFT_OUT)
        shown = sum(end <= room for end in ends) - 1
        left_out = len(lines) - max(shown, 0)
        return "\n".join((above, "", *lines[:shown], "", f"The other {left_out} agents are in {REPORT}."))


@step("report")
def report(run_id: str, version: int, gate: str, agents: str, evaluation: str, attempt: Attempt) -> str:
    """Write the report to Prefect and to the MLflow run. Returns it for a terminal."""
    client = connect()
    fenced = FencedClient(client=client, attempt=attempt)
    run = client.get_run(run_id)
    config = config_of(run)
    stress = read_played(evaluation).stress
    finished = Report(
        run_id=run_id,
        experiment=str(run.info.experiment_id),
        env_id=config.env_id,
        acceptance_return=config.acceptance_return,
        version=version,
        gate=gate,
        population=read_summary(client, run_id),
        returns=read_returns(agents),
        stress=stress,
        comparison=read_comparison(client, run_id, version),
        baselines=baselines(config.world) if stress else {},
    )
    fenced.checked().log_text(run_id, f"# Training run {run_id}\n\n{finished.markdown()}\n", REPORT)
    describe_run(fenced, "\n\n".join(filter(None, (finished.markdown(_DESCRIPTION), _flow_run_link()))))
    fenced.check()
    if flow_run_id():
        _show_in_prefect(client, finished)
    return finished.text()


def _show_in_prefect(client: MlflowClient, finished: Report) -> None:
    from prefect.artifacts import create_markdown_artifact

    run_id = finished.run_id
    page = run_page(finished.experiment, run_id)
    where = f"[The run in MLflow]({page})" if page else f"The run is {run_id} in {absolute_uri()}."
    create_markdown_artifact(
        key="training-report",
        description=f"MLflow run {run_id}",
        markdown=f"# {finished.env_id}\n\n{finished.markdown()}\n\n{_learning_curves(client, run_id)}{where}\n",
    )


def _learning_curves(client: MlflowClient, run_id: str) -> str:
    """The figure as markdown; nothing if it could not be drawn."""
    if not has_artifact(client, run_id, LEARNING_CURVES):
        return ""
    with open(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{LEARNING_CURVES}"), "rb") as file:
        picture = base64.b64encode(file.read()).decode()
    return f"![learning curves](data:image/png;base64,{picture})\n\n"


def _row(agent: AgentResult, returns: Returns, *, solvable: bool) -> tuple[str, ...]:
    if agent.diverged is not None:
        return f"{agent.agent:02d}", "diverged", "-", "-", f"{agent.updates:,}", f"{agent.environment_steps:,}"
    solved = "yes" if agent.solved else "no"
    return (
        f"{agent.agent:02d}",
        solved if solvable else "-",
        f"{returns.mean():.1f}",
        f"{returns.min():g}",
        f"{agent.updates:,}",
        f"{agent.environment_steps:,}",
    )


def _diverged(agent: AgentResult) -> str:
    return f"agent {agent.agent:02d} after update {agent.diverged:,} ({agent.divergence})"


def _mean_return(agents: Returns) -> str:
    """A summary of the agents' mean returns `[A]`; without an interval for a single agent."""
    if len(agents) == 1:
        return f"Mean return {agents[0]:.1f} of 1 agent"
    low, high = bootstrap_interval(agents, seed=0)
    return (
        f"Interquartile mean return {interquartile_mean(agents):.1f} ({low:.1f} to {high:.1f}, 95% bootstrap interval) "
        f"of {len(agents)} agents"
    )


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ("---:",) * len(headings), *rows))


def where_results_are(finished: Report) -> list[tuple[str, str]]:
    """Links to a server's pages, or commands that open an embedded store from any directory."""
    name = versions.model_name(finished.env_id)
    if page := run_page(finished.experiment, finished.run_id):
        return [(page, "its curves, figures and report"), (version_page(name, finished.version), "the version")]
    uri = absolute_uri()
    here = f"cd {quote(str(Path.cwd()))}" if "?" in uri else f"export MLFLOW_TRACKING_URI={quote(uri)}"
    return [
        (here, "find run and model from " + ("any directory" if here.startswith("export") else "this directory")),
        (command("ui"), version_page(name, finished.version, server=LOCAL_UI)),
    ]


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in (headings, *rows)) for column in range(len(headings))]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in (headings, *rows)
    )


def _flow_run_link() -> str | None:
    """Link to the flow run's page, if a Prefect server has one."""
    if not flow_run_id():
        return None
    import prefect.runtime
    from prefect.settings import PREFECT_UI_URL

    return f"[The flow run in Prefect]({prefect.runtime.flow_run.ui_url})" if PREFECT_UI_URL.value() else None
