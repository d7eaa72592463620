"""What a client sent, as an error's sentence shows it."""

import orjson


def quote(value: object, length: int = 80) -> str:
    """A value parsed from JSON in at most `length` characters, however deep or wide it is."""
    try:
        text = orjson.dumps(value, default=str).decode()
    except TypeError:  # orjson parses deeper than it writes
        return "something nested too deep"
    return text if len(text) <= length else f"{text[: length - 3]}..."
