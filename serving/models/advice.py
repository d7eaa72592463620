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
    """The command that registers a version under a model's name, as a part of a sentence.

    Training names a model after its environment; `~0`, `~1` and `~2` in it stand for `~`, `/` and `:`.
    """
    if not name.startswith(PREFIX):
        return f"training registers models as {PREFIX}ENVIRONMENT, so name one of those with --model"
    env_id = name.removeprefix(PREFIX).replace("~2", ":").replace("~1", "/").replace("~0", "~")
    return f"run `{command('train', *PRESETS.get(env_id, ('--env-id', env_id)))}` to train and promote one"
