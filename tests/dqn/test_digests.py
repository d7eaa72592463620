"""A change of structure changes no number: weights after 100 gradient updates of every preset, as digests.

Processors differ in the last bit of a product or a sine. Each digest therefore comes from a process that is held to the
least common instructions, and the test is skipped where even those compute something else.
"""

import json
import os
import subprocess
import sys
from typing import Final

import pytest

from dqn.presets import PRESETS

pytestmark = pytest.mark.slow

LEAST_COMMON: Final = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
}
PROGRAM: Final = """
import dataclasses, hashlib, json, sys
import numpy as np, torch
from dqn.presets import PRESETS
from dqn.training.state import TrainingState
from dqn.training.steps import advance

def digest(*arrays):
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]

generator = np.random.default_rng(0)
values = generator.normal(size=10_000)
square = torch.from_numpy(generator.normal(size=(4, 128, 64)).astype(np.float32))
product = torch.bmm(square, square.transpose(1, 2))
found = {"machine": digest(np.sin(values), np.cos(values), np.exp(values), product.numpy(), product.exp().numpy())}
for preset in sys.argv[1:]:
    state = TrainingState.begin(dataclasses.replace(PRESETS[preset], num_agents=2))
    advance(state, 100)
    found[preset] = digest(*(tensor.detach().numpy() for tensor in state.learner.online.parameters()))
print(json.dumps(found))
"""
DIGESTS: Final = {
    "machine": "f1fe77c26930b8a3",
    "cartpole": "879e137ec628ab8f",
    "robust": "2f68603f3068785a",
    "frugal": "9c0e8d6c86c6a2b9",
    "article": "75f2c9878d798dd4",
    "acrobot": "bdd46c8cdd56bf46",
    "mountaincar": "020dff975a075056",
    "lunarlander": "4dbd44623a008ee4",
}


def found(*presets: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *presets],
        env=os.environ | LEAST_COMMON,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_every_preset_trains_as_it_always_did() -> None:
    digests = found(*(name for name in PRESETS if name != "minatar"))  # whose package is not a requirement
    if digests["machine"] != DIGESTS["machine"]:
        pytest.skip(f"this processor computes products or sines differently: {digests['machine']}")
    assert digests == DIGESTS
