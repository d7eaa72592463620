"""JSON and words from outside, as the type that they must fit, or one sentence."""

import json
import re
from typing import Annotated, Any, Final, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct
from starlette.testclient import TestClient

from serving.errors import RequestError
from serving.show.commands import DECODER as COMMANDS
from serving.web.decoding import decode, fit
from tests.support.serving.clients import client_of


class Push(Struct, forbid_unknown_fields=True):
    step: int


def test_words_may_be_numbers_and_json_may_not() -> None:
    assert fit({"step": "7"}, Push) == decode(msgspec.json.Decoder(Push), b'{"step": 7}') == Push(7)
    with pytest.raises(RequestError, match=r'^step must be a whole number, got "7"$'):
        decode(msgspec.json.Decoder(Push), b'{"step": "7"}')


def test_input_of_a_client_is_repeated_in_part() -> None:
    with pytest.raises(RequestError) as asked:
        fit({"x" * 400: 1}, Push)
    with pytest.raises(RequestError) as sent:
        decode(msgspec.json.Decoder(Push), msgspec.json.encode({"x" * 400: 1}))
    for caught, whole in ((asked, "the query"), (sent, "the request")):
        assert str(caught.value) == f"{whole} has a field '{'x' * 40}…', which is unknown: leave it out"
        assert caught.value.status == 400
    assert str(RequestError("late", 408)) == "late"
    with pytest.raises(RequestError, match=r"^step is too large a number$"):
        fit({"step": "9" * 5000}, Push)


class Odd(Struct):
    count: int = 0
    name: Annotated[str, Meta(max_length=3, pattern="^a")] = "a"
    pair: Annotated[list[float], Meta(min_length=2)] | None = None
    kind: Literal["a", "b"] = "a"
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"count": 1e999}', "the request is not valid JSON: a number is too large"),
        ('{"count": %s}' % ("9" * 5000), "the request is not valid JSON: a number is too large"),
        ('{"name": "abcdef"}', 'name must be a string of length at most 3, got "abcdef"'),
        ('{"name": "%s"}' % ("a" * 50), "name must be a string of length at most 3, got a string of length 50"),
        ('{"name": "b"}', "name must be a string that matches '^a', got \"b\""),
        ('{"pair": [1]}', "pair must be a list of length at least 2, got a list of length 1"),
        ('{"pair": {}}', "pair must be a list or null, got an object"),
        ('{"pair": [1, null]}', "pair[1] must be a number, got null"),
        ('{"kind": "c"}', 'kind must be one of a, b, got "c"'),
        ('{"share": 1.5}', "share must be a number below 1, got 1.5"),
        ('{"share": 0}', "share must be a number above 0, got 0"),
    ],
)
def test_every_refusal_names_what_is_expected_and_what_was_sent(text: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(msgspec.json.Decoder(Odd), text)
    assert str(caught.value) == sentence


VALIDATORS: Final = re.compile(
    r"[Ee]xpected `|`\$|Object (missing|contains)|Invalid (enum )?value|out of range|malformed|truncated|does not fit|"
    r"codec can't|recursion depth|Error -\d|Input should|[Ff]ield required|string_too|valid (integer|number|string)\b"
)
LEAVES: Final = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=60)
_WORDS: Final = """
    seed version pushes changes world length step force drift stage text progress do
    inputs outputs name shape datatype data parameters binary_data_size since id
"""
NAMES: Final = st.sampled_from(_WORDS.split())
JSONS: Final = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=6)
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return client_of(tmp_path_factory.mktemp("served"))[1]


def refused(client: TestClient, method: str, path: str, **options: Any) -> None:
    """Send a request, and check that the sentence of a refusal fits a person."""
    answer = client.request(method, path, **options)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    if answer.status_code >= 400:
        assert list(answer.json()) == ["error"], answer.text
        assert not VALIDATORS.search(answer.json()["error"]), answer.text


@pytest.mark.slow
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSONS.map(json.dumps).map(str.encode))
@example(body=b"{")
@example(body=b"\xff\xfe")
@example(body=b'{"seed": "\xff"}')
@example(body=b'{"x": ' + b"[" * 100_000)
@example(body=b'{"seed": 1e999}')
def test_no_operation_answers_in_a_validators_words(client: TestClient, body: bytes) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for template, item in paths.items():
        path = template.replace("{model}", "p").replace("{version}", "1").replace("{milestone}", "0")
        for method, operation in item.items():
            if "requestBody" in operation:
                for headers in ({}, {"Content-Encoding": "gzip"}):
                    refused(client, method, path, content=body, headers=headers)
    query = body.decode("latin-1")[:100]
    for name in ("since", "seed"):
        refused(client, "GET", "/api/experience", params={name: query})


@given(body=JSONS.map(json.dumps))
@example(body='{"do": "jump"}')
@example(body='{"do": 7}')
@example(body='{"do": "push", "force": 1e9}')
def test_no_command_is_refused_in_a_validators_words(body: str) -> None:
    said = ""
    try:
        decode(COMMANDS, body)
    except RequestError as error:
        said = str(error)
    assert not VALIDATORS.search(said)
