"""All imports of this project's flow runs, for the fork server: its children inherit them."""

import importlib
from typing import Final

import prefect.flow_engine

from flows import adapt, sweep, train
from flows.reporting import figures

# Modules that libraries import on first use.
LATE: Final = tuple(
    importlib.import_module(name) for name in ("matplotlib.backends.backend_agg", "mlflow.onnx", "onnx")
)
FLOWS: Final = (adapt, figures, prefect.flow_engine, sweep, train)
