"""A worker of Prefect's process pools that forks flow runs from a process that has imported everything.

Prefect's own worker starts two interpreters for each run, one that prepares and one that executes. Both import
Prefect, and the second imports torch and MLflow too: seven CPU-seconds before the first line of a flow. Here Python's
fork server (`multiprocessing`) imports once. Everything else is Prefect's: one process for each run, its exit code,
signals, cancellation and crash reports. Changes of the code take effect when the worker is restarted.
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
"""Name of the worker type on Prefect's command line; the pool's type stays `process`."""
IMPORTS: Final = "flows.worker.imports"

_FORKS = multiprocessing.get_context("forkserver")


class PreloadError(RuntimeError):
    """The imports of flow runs failed; the log says why."""


class PreloadedWorker(ProcessWorker):
    """A process worker that forks. If the pool or the deployment of a run names a command, that command starts it."""

    @classmethod
    def __dispatch_key__(cls) -> str:
        return TYPE

    async def run(
        self,
        flow_run: "FlowRun",
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """As the base class, but by a fork."""
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
            raise RuntimeError("the process of the flow run could not be started")  # the log says why
        return ProcessWorkerResult(status_code=finished[0].status_code, identifier=str(handle.pid))

    async def __aenter__(self) -> Self:
        """Start the fork server and wait until it is ready: an earlier run would block the worker.

        Raises:
            PreloadError: if an import fails.
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
        """Start the process, report it to Prefect, and wait for its end."""
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
    """Start a process that executes the flow run of an environment.

    Call this in the thread that reads the exit code later: `multiprocessing` reads it once.
    """
    named = {name: value for name, value in environment.items() if value is not None}
    process = _FORKS.Process(target=run_engine, args=(named, directory))
    process.start()
    return process


def preload() -> None:
    """Start the fork server and wait until it has imported everything.

    Raises:
        PreloadError: if an import fails.
    """
    _FORKS.set_forkserver_preload([IMPORTS])
    resource_tracker.ensure_running()  # started later, it would reset the signal mask
    # A signal may be sent to the worker's whole group. The fork server must stay until the worker has ended its runs.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = _FORKS.Process(target=importlib.import_module, args=(IMPORTS,))  # the server ignores errors itself
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    process.join()
    if process.exitcode:
        raise PreloadError(f"{IMPORTS} cannot be imported (exit code {process.exitcode}): the output above says why")
