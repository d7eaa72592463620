"""What things are called in the registry."""

from collections.abc import Sequence
from typing import Final

_PREFIX: Final = "dqn-"
_ESCAPES: Final = (("~", "~0"), ("/", "~1"), (":", "~2"))
"""In the order of escaping. A registered name may hold no slash or colon; the escapes are those of JSON pointers
(RFC 6901, section 3), with one more for the colon. No id of Gymnasium's holds a tilde by itself."""


def model_name(env_id: str) -> str:
    """Name of the registered model of an environment; no two environments have the same."""
    for character, escape in _ESCAPES:
        env_id = env_id.replace(character, escape)
    return _PREFIX + env_id


def environment_of(name: str) -> str:
    """The environment whose registered model has this name."""
    env_id = name.removeprefix(_PREFIX)
    for character, escape in reversed(_ESCAPES):
        env_id = env_id.replace(escape, character)
    return env_id


def no_version(env_id: str, reference: str, known: Sequence[str]) -> str:
    """The sentence that refuses to start from a version."""
    return (
        f"{model_name(env_id)} has no version {reference!r} to start from; registered are: "
        f"{', '.join(known) or 'none'}; an alias that is set, such as champion, does too"
    )
