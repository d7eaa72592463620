"""Names in the registry."""

from collections.abc import Sequence
from typing import Final

PREFIX: Final = "dqn-"
_NAMED: Final = 10
"""Versions that a message names."""
_ESCAPES: Final = (("~", "~0"), ("/", "~1"), (":", "~2"))
"""In the order of escaping. A registered name may contain no slash or colon. The escapes are those of JSON pointers
(RFC 6901, section 3), and one more for the colon. Gymnasium's own ids contain no tilde."""


def model_name(env_id: str) -> str:
    """Name of the registered model of an environment. Different environments have different names."""
    for character, escape in _ESCAPES:
        env_id = env_id.replace(character, escape)
    return PREFIX + env_id


def environment_of(name: str) -> str:
    """The environment of the registered model of this name."""
    env_id = name.removeprefix(PREFIX)
    for character, escape in reversed(_ESCAPES):
        env_id = env_id.replace(escape, character)
    return env_id


def no_version(env_id: str, reference: str, known: Sequence[str], *, why: str = " to start from") -> str:
    """The message for a version that does not exist; `known` are all that do, the oldest first."""
    if not known:
        return f"{model_name(env_id)} has no version {reference!r}{why}; none is registered: train first"
    older = f"{len(known) - _NAMED} older ones, " if len(known) > _NAMED else ""
    return (
        f"{model_name(env_id)} has no version {reference!r}{why}; registered are: "
        f"{older}{', '.join(known[-_NAMED:])}; an alias that is set, such as champion, does too"
    )
