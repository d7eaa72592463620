"""JSON from outside, checked against the schema it must fit."""

from typing import TypeVar

import msgspec

T = TypeVar("T")
_LONGEST = 300  # of an error's words about a field, whose name a client chose


class RequestError(ValueError):
    """A request that cannot be answered: the HTTP status, and what was given and what is expected."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def decode(decoder: msgspec.json.Decoder[T], text: bytes | str) -> T:
    """What a client sent, as the decoder's type.

    Raises:
        RequestError: with one sentence that names the first field that does not fit.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise RequestError(f"the request does not fit: {str(error)[:_LONGEST]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the request is not valid JSON: {error}") from error


def fit(values: object, kind: type[T]) -> T:
    """Words of a command line or of a query, as `kind`; numbers may be text.

    Raises:
        RequestError: as `decode`.
    """
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(f"it does not fit: {str(error)[:_LONGEST]}") from error
