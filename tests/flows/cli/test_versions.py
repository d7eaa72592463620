"""`versions`: the table, the JSON, and the two ways to read a registry."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from mlflow import MlflowClient

from flows.cli import versions as verb
from flows.cli.versions import age, by_mlflow, table
from flows.registry import versions
from flows.registry.versions import CHAMPION
from serving.models.glance import Version, glance_versions
from tests.support.flows.registering import BALANCING, FALLING, registered

ROOT = Path(__file__).parents[3]
NOW = 1_700_000_000.0


def version(number: int, *aliases: str, name: str = "dqn-CartPole-v1", **tags: str) -> Version:
    tags = {key.replace("__", "."): value for key, value in tags.items()}
    run_id = f"{number:032x}"
    return Version(name=name, number=number, created=NOW - number * 7_000, run_id=run_id, tags=tags, aliases=aliases)


FOUND = [
    version(
        12,
        "champion",
        world="nominal",
        eval__mean_return="500",
        eval__min_return="500",
        eval__robustness="0.994",
        gate="passed: better: mean return 500 over 600 episodes, threshold 475",
    ),
    version(
        3, "challenger", "mine", world="wind 2", eval__mean_return="312.5", eval__min_return="9", gate="refused: x"
    ),
    version(1, gate="passed: x", retired="2026-01-01"),
    version(1, name="dqn-Acrobot-v1", eval__mean_return="by hand"),
]


def test_the_table_has_a_row_for_each_version_and_fits_the_terminal() -> None:
    first, *lines = table(FOUND, NOW, 100).splitlines()
    assert first == "dqn-CartPole-v1"
    assert lines[:4] == [
        "version  aliases           world    returns         robust  gate                      age   run",
        "12       champion          nominal  500             99.4%   passed: better: mean ...  23 h  00000000",
        "3        challenger, mine  wind 2   312.5, least 9          refused: x                5 h   00000000",
        "1                                                           retired; passed: x        1 h   00000000",
    ]
    assert lines[4:6] == ["", "dqn-Acrobot-v1"]
    assert max(map(len, lines)) <= 100
    wide = table(FOUND, NOW, 300).splitlines()[2]
    assert "passed: better: mean return 500 over 600 episodes, threshold 475" in wide
    assert table([], NOW, 80) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59, "59 s"), (60, "1 min"), (3_599, "59 min"), (3_600, "1 h"), (86_400 * 3.9, "3 d")],
)
def test_an_age_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_json_has_whole_values_and_null_for_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    verb.show(FOUND, "dqn-Acrobot-v1", as_json=True)
    (only,) = json.loads(capsys.readouterr().out)
    assert (only["env_id"], only["version"], only["mean_return"], only["gate"]) == ("Acrobot-v1", 1, None, None)
    verb.show(FOUND, "", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [(each["model"], each["version"]) for each in shown][-3:] == [("dqn-CartPole-v1", n) for n in (12, 3, 1)]
    assert shown[1]["robustness"] == 0.994
    assert shown[1]["run_id"] == f"{12:032x}"


def test_tables_of_a_local_file_say_what_mlflow_says(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for weights in (BALANCING, FALLING):
        registered(store, "dqn-listed", weights)
    gone = registered(store, "dqn-listed", FALLING)
    versions.set_alias(store, "dqn-listed", CHAMPION, 1)
    store.delete_model_version("dqn-listed", str(gone))
    monkeypatch.setattr(verb, "_PAGE", 1)

    def ordered(found: Any) -> list[Version]:
        return sorted((each for each in found if each.name == "dqn-listed"), key=lambda each: each.number)

    assert ordered(glance_versions()) == ordered(by_mlflow())
    first, second = ordered(by_mlflow())
    assert (first.aliases, second.aliases) == (("champion",), ())
    assert first.tags == {"git_commit": "unknown"}


def test_a_local_registry_is_listed_without_importing_mlflow(store: MlflowClient, store_directory: Path) -> None:
    registered(store, "dqn-light", BALANCING)
    listing = (
        "import sys; from flows.cli.versions import main; code = main(['--json']);"
        "print(code, [name for name in ('torch', 'mlflow', 'prefect') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing],
        capture_output=True,
        text=True,
        cwd=store_directory,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stderr == "0 []\n"
    assert "dqn-light" in {each["model"] for each in json.loads(done.stdout)}


def test_a_server_that_does_not_answer_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert verb.main([]) == 1
    written = capsys.readouterr().err
    assert written.startswith("error: MLflow's tracking store http://127.0.0.1:1 cannot be used")
    assert written.count("\n") == 1


@pytest.mark.parametrize("fault", ["", "404", "text"])
def test_a_server_is_asked_page_by_page_and_mlflow_where_that_fails(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, dict[str, list[str]]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            asked.append((path.split("/")[-2], parse_qs(query, keep_blank_values=True)))
            assert self.headers["Authorization"] == "Basic bWU6c2VjcmV0"
            second = asked[-1][1]["page_token"] == ["next"]
            kind = asked[-1][0].replace("-", "_")
            number = "1" if second else "2"
            row: dict[str, Any] = {"name": "dqn-CartPole-v1"}
            if kind == "model_versions":
                row |= {"version": number, "creation_timestamp": 1_000, "tags": [{"key": "world", "value": "nominal"}]}
            elif second:
                row["aliases"] = [{"alias": "champion", "version": "2"}]
            answer = {kind: [row]} | ({} if second else {"next_page_token": "next"})
            self.send_response(404 if fault == "404" else 200)
            self.end_headers()
            self.wfile.write(b"<html>" if fault == "text" else json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(verb, "by_mlflow", lambda: FOUND)
        assert verb.main(["--json"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    shown = [(each["version"], each["aliases"]) for each in json.loads(capsys.readouterr().out)]
    if fault:
        assert len(shown) == len(FOUND)
    else:
        assert shown == [(2, ["champion"]), (1, [])]
        assert [kind for kind, _ in asked] == ["registered-models"] * 2 + ["model-versions"] * 2
        assert all(query["filter"] == ["name LIKE 'dqn-%'"] for _, query in asked)
