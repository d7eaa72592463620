"""Clients of a server in this process, messages of its show, and samples of its metrics."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient, WebSocketTestSession

from serving.application import App
from serving.models.follower import Models
from serving.models.source import FileSource
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model

SHOW = "ws://localhost/api/show"


def samples(text: str, name: str) -> dict[tuple[Any, ...], float]:
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith(name) and not sample.name.endswith("_created")
    }


def models_of(folder: Path, gains: tuple[float, ...] = BALANCES, *, properties: dict[str, str] = PROPERTIES) -> Models:
    path = folder / "p.onnx"
    path.write_bytes(linear_model(gains, properties=properties))
    return Models(FileSource(path), alias=None, version="1")


def client_of(folder: Path, *, properties: dict[str, str] = PROPERTIES, **options: Any) -> tuple[App, TestClient]:
    models = models_of(folder, properties=properties)
    asyncio.run(models.poll())
    app = App(models, **options)
    return app, TestClient(app.asgi, base_url="http://localhost")


def infer(rows: int) -> dict[str, Any]:
    return {"inputs": [{"name": "observation", "shape": [rows, 4], "datatype": "FP32", "data": [0.125] * 4 * rows}]}


def message(viewer: WebSocketTestSession, **wanted: object) -> dict[str, Any]:
    """The next message that has these entries; a show that plays on sends others before it."""
    while True:
        received: dict[str, Any] = orjson.loads(viewer.receive_text())
        if wanted.items() <= received.items():
            return received
