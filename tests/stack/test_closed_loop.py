"""The world of the show changes, and the system follows by itself. `make test-stack`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from engine import docker
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.stack.system import MODEL, System, trains, within, workers

pytestmark = pytest.mark.stack
REVERSED = {"force_mag": -10.0}
SHORT = {"length": 0.1, "force_mag": 30.0}  # nothing can be undone of it, and the champion falls within ten steps
SHORT_REVERSED = {"length": 0.1, "force_mag": -30.0}  # no version is known for it, and with the sign undone it is SHORT


@pytest.fixture
def played(system: System) -> Iterator[System]:
    """A champion plays, and a viewer watches and does nothing else."""
    if system.status()["current"] is None:
        trained = system.deploy_run("-p", 'config={"seed": 7, "num_agents": 8}', "--watch")
        assert trained.returncode == 0, trained.stdout
        within(60, lambda: system.status()["current"] is not None)
    with viewer(system):
        yield system
        change(system, {})


@contextmanager
def viewer(system: System) -> Iterator[None]:
    over = threading.Event()
    url = f"ws://127.0.0.1:{system.stack.ports()['serving']}/api/show"

    def watch() -> None:
        while not over.is_set():
            try:
                with connect(url, max_size=None) as socket:
                    while not over.is_set():
                        socket.recv(timeout=5)
            except (OSError, TimeoutError, ConnectionClosed):
                over.wait(1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_reversed_motor_is_undone_and_confirmed_without_a_training(played: System) -> None:
    before = champion(played)
    change(played, REVERSED)
    stages = healed(played, drift_before=None, by="confirmed")
    assert not {"training", "promoted"} & set(stages)
    assert champion(played).version == before.version
    assert adaptation(played)["playing"]["name"] == "the motor's sign undone"


def test_what_cannot_be_undone_is_trained_for_and_put_right_from_memory(played: System) -> None:
    before, latest = champion(played), adaptation(played)["drift"]
    change(played, SHORT)
    stages = healed(played, drift_before=latest and latest["id"])
    assert "training" in stages
    trained = champion(played)
    assert trained.version != before.version
    assert trained.tags["world"].startswith("length 0.1")
    assert trained.tags["gate"].startswith("passed: better")
    assert played.status()["current"]["version"] == str(trained.version)
    assert adaptation(played)["playing"] is None, "nothing is undone any more"

    first = adaptation(played)["drift"]["id"]
    change(played, {})
    stages = healed(played, drift_before=first)
    assert "training" not in stages
    assert champion(played).version == before.version


def test_an_adaptation_whose_worker_is_killed_goes_on_elsewhere(played: System) -> None:
    latest = adaptation(played)["drift"]
    change(played, SHORT_REVERSED)
    within(300, lambda: "training" in new_stages(played, latest and latest["id"]))
    busy = [name for name in workers(played) if trains(name)]
    assert busy
    docker("kill", *busy)
    try:
        stages = healed(played, drift_before=latest and latest["id"])
    finally:
        docker("start", *busy)
    assert stages.count("training") >= 1
    assert champion(played).tags["world"].startswith("length 0.1")


def champion(system: System) -> Any:
    return system.mlflow.get_model_version_by_alias(MODEL, "champion")


def change(system: System, world: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {system.token}"}
    system.serving.put("/api/world", json=world, headers=headers).raise_for_status()


def adaptation(system: System) -> dict[str, Any]:
    answer: dict[str, Any] = system.serving.get("/api/adaptation").raise_for_status().json()
    return answer


def new_stages(system: System, drift_before: str | None) -> list[str]:
    """Stages of the adaptation to a drift that came after another."""
    told = adaptation(system)
    if told["drift"] is None or told["drift"]["id"] == drift_before:
        return []
    return [stage["stage"] for stage in told["stages"]]


def healed(system: System, drift_before: str | None, by: str = "recovered") -> list[str]:
    """Wait for a drift to be noticed and adapted to, until this stage. Returns the stages."""

    def is_over() -> bool:
        stages = new_stages(system, drift_before)
        assert not {"refused", "rolled back", "failed", "waiting"} & set(stages), adaptation(system)
        return by in stages

    within(900, is_over)
    return new_stages(system, drift_before)
