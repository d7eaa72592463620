"""Checks and warnings that need neither PyTorch nor MLflow: importing those takes seconds."""

import os
import re
from pathlib import Path
from typing import Final

import gymnasium as gym

from dqn.config import ConfigError
from dqn.environments.spec import Environment, EnvironmentUnsupportedError, environment_spec
from dqn.presets import PRESETS
from flows.failures.environments import named
from flows.names import PREFIX, environment_of, model_name, no_version
from flows.request.general import GENERAL, StartName
from flows.request.saved_presets import own_presets
from flows.request.suggestions import did_you_mean
from serving.commands import command, program
from serving.models.glance import DEFAULT_URI, glance, glance_run, store_file

_DEVICES: Final = ("cpu", "cuda", "mps", "xpu")


def require_environment(environment: Environment) -> None:
    """Refuse an environment that is not registered with Gymnasium, or has no time limit.

    Raises:
        EnvironmentUnsupportedError: naming the nearest registered ones.
    """
    env_id = environment.env_id
    try:
        environment_spec(environment)
    except EnvironmentUnsupportedError as error:
        known = [name for name, spec in gym.registry.items() if spec.namespace is None]
        if ":" in env_id or env_id in gym.registry or not (meant := did_you_mean(env_id, known)):
            raise
        raise EnvironmentUnsupportedError(f"there is no environment {env_id!r}{meant}") from error
    except Exception as error:  # importing a module runs its code
        module = env_id.rpartition(":")[0]
        raise EnvironmentUnsupportedError(
            f"module {module!r}, which is to register {env_id!r}, cannot be imported ({named(error)}); "
            f"{program('python')} -c 'import {module}' shows where"
        ) from error


def require_preset(name: str) -> None:
    """Refuse a preset that is neither shipped nor saved here, with the nearest names.

    Raises:
        ConfigError: if no preset has this name.
    """
    known = [*PRESETS, GENERAL]
    if name in known:
        return
    known += own_presets()
    if name not in known:
        raise ConfigError(
            f"there is no preset {name!r}" + (did_you_mean(name, known) or f"; there are {', '.join(known)}")
        )


def require_device_name(name: str) -> None:
    """Refuse a device with a mistyped name. Whether this machine has the device is checked later, by PyTorch.

    Raises:
        ConfigError: naming the nearest devices.
    """
    kind = re.sub(r":\d+$", "", name)
    if kind not in _DEVICES and (meant := did_you_mean(kind, _DEVICES)):
        raise ConfigError(f"there is no device {name!r}{meant}")


def require_registry() -> None:
    """Refuse a local registry that does not exist yet: MLflow would create an empty one.

    Raises:
        ConfigError: naming its file.
    """
    file = store_file(os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
    if file and not file.exists():
        raise ConfigError(f"there is no registry {file}: start where you trained, or train first ({command('train')})")


def require_model(env_id: str) -> None:
    """Refuse an environment of which no version is registered, if the registry is on this machine.

    Raises:
        ConfigError: naming the nearest environments, or all of them.
    """
    known = glance(model_name(env_id))
    if known and model_name(env_id) not in known.models:
        registered = [environment_of(name) for name in known.models if name.startswith(PREFIX)]
        meant = did_you_mean(env_id, registered) or f"; there are versions of: {', '.join(registered) or 'none'}"
        raise ConfigError(f"no version of environment {env_id!r} is registered{meant}")


def require_version(env_id: str, reference: str, *, why: str = " to start from") -> None:
    """Refuse a version or alias that does not exist, if the registry is on this machine.

    Raises:
        ConfigError: naming the registered versions.
    """
    known = glance(model_name(env_id))
    if known and not known.holds(reference):
        raise ConfigError(no_version(env_id, reference, known.versions, why=why))


def require_run(run_id: str, checkpoint_dir: Path) -> None:
    """Refuse a run that does not exist, if the tracking store is on this machine, or that has no checkpoint.

    Raises:
        ConfigError: saying what is missing.
    """
    known = glance_run(run_id)
    if known is None:
        return
    if not known.exists:
        raise ConfigError(
            f"there is no run {run_id!r} in {known.store}; its id is printed when training starts and is shown on its "
            f"page in `{command('ui')}`"
        )
    path = checkpoint_dir.absolute() / f"{run_id}.ckpt"
    if known.status != "FINISHED" and known.population and not known.trained and not path.exists():
        raise ConfigError(
            f"run {run_id} has no checkpoint {path}; resume on the machine and in the directory it was started in, "
            "or name its directory with --checkpoint-dir"
        )


def preset_warning(preset: StartName, env_id: str) -> str | None:
    """A sentence about a preset that was tuned to another environment; None if it fits."""
    tuned_to = env_id if preset == GENERAL else PRESETS[preset].env_id
    if tuned_to == env_id:
        return None
    fitting = [name for name, config in PRESETS.items() if config.env_id == env_id]
    instead = f"--preset {fitting[0]} is" if fitting else "expect to tune them"
    return f"the hyper-parameters of preset {preset} were tuned to {tuned_to}, not to {env_id}; {instead}"
