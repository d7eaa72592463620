"""The parameters of a training: a preset, and overrides of the fields of DQNConfig."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Self, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from dqn.config import WORLDS, ConfigError, DQNConfig
from dqn.environments.world import World
from dqn.experience.vector import describe
from dqn.learning.losses import require_loss
from dqn.presets import PRESETS
from dqn.training.fits import divisors
from dqn.training.machine import policy_bytes, require_device, require_memory
from flows.failures.environments import of_environment
from flows.request.general import GENERAL, StartName, start_of
from flows.request.suggestions import did_you_mean, expected
from serving.model_file import MAX_BYTES

_LONGEST: Final = 40  # characters of a value that a message repeats


class _Overrides(BaseModel):
    """Fields that are left out keep the preset's value; a whole DQNConfig sets all of them."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _accept_config(cls, value: Any) -> Any:
        return value.to_dict() if isinstance(value, DQNConfig) else value

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_a_sentence(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(value)
        except ValidationError as error:
            sentence = refusal(error.errors()[0])
            raise PydanticCustomError("configuration", "{sentence}", {"sentence": sentence}) from error

    @model_serializer(mode="wrap")
    def _only_what_was_given(self, serialize: Callable[["_Overrides"], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}

    def applied_to(self, preset: StartName) -> DQNConfig:
        """The preset with the fields that are set here; without an acceptance return, without acceptance epsilon.

        Raises:
            ConfigError: if the preset does not exist, or the result cannot be trained.
            EnvironmentUnsupportedError: if the preset is `general` and the environment is unknown.
        """
        if preset not in (*PRESETS, GENERAL):
            raise ConfigError(f"preset must be one of {', '.join((*PRESETS, GENERAL))}, got {preset!r}")
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        if "acceptance_return" in changes and changes["acceptance_return"] is None:
            changes.setdefault("acceptance_epsilon", 0.0)  # the preset's value needs an acceptance return
        named = {name: changes[name] for name in ("env_id", "env_kwargs", "max_episode_steps") if name in changes}
        config = dataclasses.replace(start_of(preset, DQNConfig(**named).environment), **changes)
        # A world of every agent is the run's: its best agent is tested, recorded and served in it.
        return (
            dataclasses.replace(config, world=config.worlds[0], worlds=()) if len(set(config.worlds)) == 1 else config
        )


def refusal(error: ErrorDetails) -> str:
    """A sentence about pydantic's error: which field is wrong, what it must be, and what it is."""
    path, hints = [str(step) for step in error["loc"]], get_type_hints(DQNConfig)
    if cause := error.get("ctx", {}).get("error"):  # World's own message
        return str(cause)
    if path[:1] and path[0] in WORLDS:
        hints = {f"{path[0]}.{name}": hint for name, hint in get_type_hints(World).items()} | {path[0]: dict}
        path = [".".join(path[:2]), *path[2:]]
    name = path[0] if path else "config"
    if path and name not in hints:
        return f"there is no hyper-parameter {name!r}{did_you_mean(name, list(hints)) or ': leave it out'}"
    kind = hints.get(name, dict)
    return f"{name} must be {'an object' if kind is dict else expected(kind)}, got {repr(error['input'])[:_LONGEST]}"


def _derive_overrides() -> type[_Overrides]:
    """A model of DQNConfig's fields, types and descriptions, all optional: Prefect's UI makes a form of it."""
    sentences = TypeAdapter(DQNConfig).json_schema()["properties"]
    types = get_type_hints(DQNConfig)
    fields: dict[str, Any] = {
        field.name: (
            types[field.name],
            # Unlike a default, a factory is not in the schema: the form starts empty and sends only filled fields.
            Field(
                default_factory=lambda: None,
                description=sentences[field.name]["description"],
                json_schema_extra={"position": position},  # the form's order, which the database does not keep
            ),
        )
        for position, field in enumerate(dataclasses.fields(DQNConfig))
    }
    return create_model("ConfigOverrides", __base__=_Overrides, __doc__=_Overrides.__doc__, **fields)


if TYPE_CHECKING:

    class ConfigOverrides(_Overrides):
        """The derived model below, for type checkers."""
else:
    ConfigOverrides = _derive_overrides()


def check_trainable(config: DQNConfig) -> None:
    """Refuse a configuration that the environment or this machine does not support, before anything starts.

    Raises:
        EnvironmentUnsupportedError: if the environment is unknown or unsupported.
        ConfigError: if the configuration does not fit it, or this machine does not have the device.
        MemoryError: if training needs more memory than this machine has.
    """
    require_device(config.device)
    require_loss(config)
    with of_environment(config.env_id):
        worlds = [*config.training_worlds(range(config.num_agents)), *(config.worlds or [config.world])]
        spaces, *_ = [describe(config.environment, world) for world in dict.fromkeys(worlds)]
    divisors(config, spaces)
    size = policy_bytes(config, spaces)
    if size > MAX_BYTES:
        raise ConfigError(
            f"hidden_sizes {list(config.hidden_sizes)} make a policy of {size >> 20} MiB, which serving would refuse: "
            f"it loads {MAX_BYTES >> 20} MiB at most; make them smaller"
        )
    require_memory(config, spaces)
