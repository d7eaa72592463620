"""The command that trains a version of a model that has none."""

from typing import Final

from serving.commands import command

PREFIX: Final = "dqn-"
PRESETS: Final = {
    "CartPole-v1": (),
    "Acrobot-v1": ("--preset", "acrobot"),
    "MountainCar-v0": ("--preset", "mountaincar"),
    "LunarLander-v3": ("--preset", "lunarlander"),
}
"""Options of training by environment; for any other environment, `--env-id`."""


def how_to_train(name: str) -> str:
    """The command that registers a version under a model's name, as a part of a sentence."""
    if not name.startswith(PREFIX):
        return f"training registers models as {PREFIX}ENVIRONMENT, so name one of those with --model"
    env_id = environment_of(name)
    return f"run `{command('train', *PRESETS.get(env_id, ('--env-id', env_id)))}` to train and promote one"


def environment_of(name: str) -> str:
    """The environment that training named a model after; `~0`, `~1` and `~2` stand for `~`, `/` and `:`."""
    return name.removeprefix(PREFIX).replace("~2", ":").replace("~1", "/").replace("~0", "~")
