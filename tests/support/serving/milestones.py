"""The files of a learning history."""

import json

from tests.support.serving.policies import BALANCES, FALLS, linear_model

WAY = [
    {"file": "a.onnx", "updates": 0, "environment_steps": 0, "mean_return": 9.5},
    {"file": "b.onnx", "updates": 300, "environment_steps": 28_800, "mean_return": 480.0},
]
FILES = {
    "learning.json": json.dumps(WAY).encode(),
    "a.onnx": linear_model(FALLS),
    "b.onnx": linear_model(BALANCES, bias=5),
}
