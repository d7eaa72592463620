"""Where networks and replay buffers live."""

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
