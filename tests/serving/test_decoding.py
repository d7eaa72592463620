"""JSON and words from outside, as the type that they must fit, or one sentence."""

import msgspec
import pytest
from msgspec import Struct

from serving.decoding import RequestError, decode, fit


class Push(Struct, forbid_unknown_fields=True):
    step: int


def test_words_may_be_numbers_and_json_may_not() -> None:
    assert fit({"step": "7"}, Push) == decode(msgspec.json.Decoder(Push), b'{"step": 7}') == Push(7)
    with pytest.raises(RequestError, match="the request does not fit: Expected `int`, got `str`"):
        decode(msgspec.json.Decoder(Push), b'{"step": "7"}')


def test_what_does_not_fit_is_told_in_three_hundred_letters() -> None:
    with pytest.raises(RequestError) as given:
        fit({"x" * 400: 1}, Push)
    with pytest.raises(RequestError) as sent:
        decode(msgspec.json.Decoder(Push), msgspec.json.encode({"x" * 400: 1}))
    for caught, begin in ((given, "it does not fit: "), (sent, "the request does not fit: ")):
        assert str(caught.value).startswith(begin + "Object contains unknown field `xxx")
        assert len(str(caught.value)) == len(begin) + 300
        assert caught.value.status == 400
    assert str(RequestError("late", 408)) == "late"
