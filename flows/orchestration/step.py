"""Steps of a flow: Prefect tasks within a flow run; without one, the same functions with the same retries."""

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

from flows.failures.errors import one_line
from flows.failures.outages import is_transient
from flows.orchestration import console
from flows.orchestration.flow_run import flow_run_id

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

P = ParamSpec("P")
R = TypeVar("R")

RETRY_SECONDS: Final = (1, 10, 20, 40, 60)
"""Before each retry: a run fails only if a server is away for more than two minutes."""


class Step(Generic[P, R]):
    """A function that is retried while a server is away. A flow run that is retried reuses its result."""

    def __init__(self, function: Callable[P, R], *, name: str, keeps_result: bool) -> None:
        functools.update_wrapper(self, function)
        self.name = name
        self.fn = function
        self._keeps_result = keeps_result

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function: as a task within a flow run, otherwise directly."""
        if flow_run_id():
            return self.task(*args, **kwargs)
        with console.phase(self.name):
            for pause in RETRY_SECONDS:
                try:
                    return self.fn(*args, **kwargs)
                except Exception as error:
                    if not is_transient(error):
                        raise
                    console.note(f"{one_line(error)}; trying again in {pause} s")
                time.sleep(pause)
            return self.fn(*args, **kwargs)

    @functools.cached_property
    def task(self) -> "Task[P, R]":
        """Its Prefect task."""
        from prefect import task
        from prefect.cache_policies import INPUTS, NO_CACHE, RUN_ID, TASK_SOURCE

        # Without the task's source, two tasks of a run with the same arguments would share a result. The
        # attempt is left out, as it has a new token each time: a later attempt reuses the results of earlier ones.
        kept: dict[str, Any] = {
            "persist_result": True,
            "result_serializer": "json",
            "cache_policy": (INPUTS - "attempt") + TASK_SOURCE + RUN_ID,
        }
        every_time: dict[str, Any] = {"persist_result": False, "cache_policy": NO_CACHE}
        return task(
            name=self.name,
            retries=len(RETRY_SECONDS),
            retry_delay_seconds=list(RETRY_SECONDS),
            retry_condition_fn=may_pass,
            **(kept if self._keeps_result else every_time),
        )(self.fn)


def step(name: str, *, keeps_result: bool = True) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a step.

    Args:
        name: as Prefect and a terminal show it.
        keeps_result: whether a flow run that is retried reuses the result of a finished step. The result of a function
            with the argument `attempt` must not depend on it.
    """

    def decorate(function: Callable[P, R]) -> Step[P, R]:
        return Step(function, name=name, keeps_result=keeps_result)

    return decorate


def may_pass(_task: "Task[Any, Any]", _run: "TaskRun", state: "State[Any]") -> bool:
    """`is_transient` as a retry condition of Prefect."""
    return is_transient(state.result(raise_on_failure=False))
