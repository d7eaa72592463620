"""What things are called in the registry, and the commands that are printed."""

import re
import shlex


def model_name(env_id: str) -> str:
    """Name of the registered model of an environment; a registered name may hold no slash or colon."""
    return "dqn-" + env_id.replace("/", "-").replace(":", "-")


def make_command(verb: str, *options: str) -> str:
    """What a person types at a shell to run a verb with options; make and its shell each take a level of quotes off."""
    if not options:
        return f"make {verb}"
    words = shlex.join(options).replace("$", "$$")
    return f"make {verb} ARGS=" + (shlex.quote(words) if re.search(r'["$`\\!]', words) else f'"{words}"')
