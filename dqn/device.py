"""Where networks and replay buffers live, and how many threads compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dqn.config import ConfigError


def require_device(name: str) -> torch.device:
    """The PyTorch device of that name.

    Raises:
        ConfigError: if there is none such, or this machine or this build of PyTorch does not have it.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}; choose cpu, or cuda where PyTorch and a GPU are there for it"
        ) from error


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Compute with this many PyTorch threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
