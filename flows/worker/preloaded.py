"""A worker of Prefect's process pools that forks flow runs from a process which has everything imported.

Prefect's own starts two interpreters a run, one that prepares and one that executes, and each imports Prefect, the
second torch and MLflow too: seven CPU-seconds before the first line of a flow. Here Python's own fork server
(`multiprocessing`) imports once. All else is Prefect's: a process a run, its exit code, signals, cancellation, the
report of a crash. Code that changes while a worker runs is the next worker's.
"""

import importlib
import multiprocessing
import os
import signal
import tempfile
from contextlib import nullcontext
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerProcess, SpawnProcess
from typing import TYPE_CHECKING, Final, Self, cast

import anyio
import anyio.abc
import anyio.to_thread
from prefect.flows import load_flow_from_flow_run
from prefect.runner._control_channel import ControlChannel
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from flows.worker.engine import run_engine

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

TYPE: Final = "preloaded-process"
"""By which Prefect's command line finds the worker; the pool's type stays `process`."""
IMPORTS: Final = "flows.worker.imports"

_FORKS = multiprocessing.get_context("forkserver")


class PreloadError(RuntimeError):
    """What flow runs need cannot be imported; the log says why."""


class PreloadedWorker(ProcessWorker):
    """A process worker; a run whose pool or deployment names a command of its own gets that command."""

    @classmethod
    def __dispatch_key__(cls) -> str:
        return TYPE

    async def run(
        self,
        flow_run: "FlowRun",
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """As the base class, by a fork."""
        task_status = task_status or anyio.TASK_STATUS_IGNORED
        if configuration._command_configured:
            return await super().run(flow_run, configuration, task_status)
        own = configuration.working_dir
        async with FlowRunExecutorContext() as context:
            with nullcontext(str(own)) if own else tempfile.TemporaryDirectory(suffix="prefect") as directory:
                starter = ForkStarter(configuration.env, directory, context.control_channel)
                executor = context.create_executor(
                    flow_run, starter, resolve_flow=load_flow_from_flow_run, propose_submitting=False
                )
                finished: list[FlowRunExecutionResult | None] = []

                async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle]) -> None:
                    finished.append(await executor.submit(task_status=task_status))

                async with anyio.create_task_group() as group:
                    handle = await group.start(execute)
                    task_status.started(handle.pid)
        if finished[0] is None or finished[0].status_code is None:
            raise RuntimeError("the process of the flow run could not be started")  # and the log has said why
        return ProcessWorkerResult(status_code=finished[0].status_code, identifier=str(handle.pid))

    async def __aenter__(self) -> Self:
        """Start the fork server, and wait until it is ready: a run that came earlier would hold up the worker.

        Raises:
            PreloadError: if what it imports cannot be imported.
        """
        await anyio.to_thread.run_sync(preload)
        return cast("Self", await super().__aenter__())


class ForkStarter:
    """Starts the process of one flow run."""

    def __init__(self, environment: dict[str, str | None], directory: str, channel: ControlChannel) -> None:
        self._environment = environment
        self._directory = directory
        self._channel = channel

    async def start(
        self, flow_run: "FlowRun", task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Start the process, hand it over, and wait for its end."""
        port, token = self._channel.register(flow_run.id)
        environment = {
            **os.environ,
            **self._environment,
            **get_current_settings().to_environment_variables(exclude_unset=True),
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
        }
        started = start(environment, self._directory)
        task_status.started(ProcessHandle(cast("SpawnProcess", started)))
        await anyio.wait_readable(started.sentinel)
        started.join()


def start(environment: dict[str, str | None], directory: str) -> ForkServerProcess:
    """A process that executes the flow run which an environment names.

    To be called in the thread that later asks for its exit code: `multiprocessing` reads that once.
    """
    named = {name: value for name, value in environment.items() if value is not None}
    process = _FORKS.Process(target=run_engine, args=(named, directory))
    process.start()
    return process


def preload() -> None:
    """Start the fork server, and wait until it has imported everything.

    Raises:
        PreloadError: if something cannot be imported.
    """
    _FORKS.set_forkserver_preload([IMPORTS])
    resource_tracker.ensure_running()  # it would set the signals' mask anew
    # Who stops a worker may tell all of its group. The fork server must stay until the worker has ended the flow runs.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = _FORKS.Process(target=importlib.import_module, args=(IMPORTS,))  # the server itself ignores errors
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    process.join()
    if process.exitcode:
        raise PreloadError(f"{IMPORTS} cannot be imported (exit code {process.exitcode}): what is above says why")
