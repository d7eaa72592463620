"""What the runs of this project's flows import, all of it: for the fork server, whose children have it then."""

import importlib
from typing import Final

import prefect.flow_engine

from flows import adapt, sweep, train
from flows.reporting import figures

# Those that libraries import when they are first used.
LATE: Final = tuple(
    importlib.import_module(name) for name in ("matplotlib.backends.backend_agg", "mlflow.onnx", "onnx")
)
FLOWS: Final = (adapt, figures, prefect.flow_engine, sweep, train)
