"""Every command that the documents show is run here, or read by the program it starts, or has a reason why not."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from stack import PORTS, print_places, read_env

import serving.arguments
import serving.models.advice
from flows.cli import bank, card, models, options, sweep, train, versions
from tests.support.shown import AUTH_STRING, COMMANDS, PYTHON, READ, RUN

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")))
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN: Final = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
PROGRAM: Final = re.compile(r"(\.venv/bin/\S+|make|python|pip|prefect|mlflow|docker(-compose)?|curl|git|chrt)( |$)")

DATACLASSES: Final[dict[str, tuple[Any, tuple[str, ...]]]] = {
    "sweep": (sweep.Arguments(), ()),
    "bank": (bank.Arguments(), ()),
    "versions": (versions.Arguments(), ()),
    "card": (card.Arguments(), ("version",)),
    "compare": (models.Compare(), ("a", "b")),
    "promote": (models.Promote(), ("version",)),
    "rollback": (models.Rollback(), ()),
    "retire": (models.Retire(), ("version",)),
}

# A make started by `make test` would take over its arguments and say which directory it enters and leaves.
MAKES: Final = ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
FRESH: Final = {name: value for name, value in os.environ.items() if name not in MAKES}


def commands(text: str) -> Iterator[str]:
    """What code blocks, and code inside sentences, tell a reader to type."""
    for language, block in FENCE.findall(text):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        if language == "console":
            yield from (_bare(line.removeprefix("$ ")) for line in lines if line.startswith("$ "))
        elif language == "bash":
            yield from filter(None, map(_bare, lines))
    spans = [" ".join(code.split()) for _, code in SPAN.findall(FENCE.sub("", text))]
    yield from (code for code in spans if PROGRAM.match(code))


def _bare(line: str) -> str:
    """A line without the comment at its end."""
    return re.sub(r"(^|\s+)# .*", "", line).strip()


def _output(words: list[str]) -> str:
    return subprocess.run(words, cwd=ROOT, env=FRESH, capture_output=True, text=True, check=True).stdout


def started(command: str) -> list[str]:
    """The words of the command line that a command comes to: of a verb of make its last line."""
    if command.split()[0] == "make":
        # --old-file: .venv is as it is, whatever has changed since
        making = ["make", "--dry-run", "--old-file=.venv/.all", *shlex.split(command)[1:]]
        command = _output(making).splitlines()[-1]
    return shlex.split(command)


def test_every_command_is_run_or_has_a_reason_why_not() -> None:
    shown = {command for document in DOCUMENTS for command in commands(document.read_text())}
    assert sorted(shown - set(COMMANDS)) == [], "not in COMMANDS"
    assert sorted(set(COMMANDS) - shown) == [], "shown nowhere"
    elsewhere = [
        command for command in shown if re.match(r"(chrt -f \d+ )?(python\d?|pip|prefect) -?(m |[a-z])", command)
    ]
    assert elsewhere == [], "fails outside an activated environment"


@pytest.mark.parametrize("command", [command for command, how in COMMANDS.items() if how == RUN])
def test_a_command_runs(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "make"
    _output([*words, "--old-file=.venv/.all"])


@pytest.mark.parametrize("command", [command for command, how in COMMANDS.items() if how == READ])
def test_the_program_that_a_command_starts_accepts_its_arguments(command: str) -> None:
    program, flag, module, *arguments = started(command)
    assert (Path(program).name, flag) == ("python", "-m")
    if module == "flows":
        verb = arguments.pop(0)
        if verb == "train":
            train.parse(arguments)
        else:
            default, positional = DATACLASSES[verb]
            options.parse(type(default), arguments, prog=verb, default=default, positional=positional)
    else:
        assert module == "serving"
        serving.arguments.parse(arguments)


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("prefix", ["", "export "])
@pytest.mark.parametrize("value", ["s3cret", '"s3cret"', "'s3cret'", "s3cret # mine", '"s3cret" # mine', "'s3cret'  #"])
def test_the_login_that_is_shown_is_read_from_the_file_as_compose_reads_it(
    value: str, prefix: str, shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "docker/.env"
    file.parent.mkdir()
    file.write_text(
        f"# PREFECT_PASSWORD=x\nPREFECT_DB_PASSWORD=y\n{prefix}PREFECT_PASSWORD={value}\nMLFLOW_PASSWORD=z\n"
    )
    assert read_env(file)["PREFECT_PASSWORD"] == "s3cret"
    shown = f"export PREFECT_API_AUTH_STRING={AUTH_STRING}"
    words = [shell, "-c", f'{shown}\nprintf %s "$PREFECT_API_AUTH_STRING"']
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "prefect:s3cret"
    print_places(SimpleNamespace(ports=lambda: dict.fromkeys(PORTS, 1)))  # type: ignore[arg-type] # of a stack the ports
    assert shown in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("how", sorted(set(COMMANDS.values()) | set(PYTHON.values())))
def test_a_reason_names_tests_that_there_are(how: str) -> None:
    for path in re.findall(r"tests/\S+\.py", how):
        assert (ROOT / path).is_file()


def python_blocks() -> set[str]:
    """Every block of Python; the same one in two documents is one."""
    fences = [fence for document in DOCUMENTS for fence in FENCE.findall(document.read_text())]
    return {block for language, block in fences if language == "python"}


def test_every_python_block_is_run_or_has_a_reason_why_not() -> None:
    assert sorted(block.splitlines()[0] for block in python_blocks()) == sorted(PYTHON)


@pytest.mark.slow
@pytest.mark.parametrize("first", [first for first, how in PYTHON.items() if how == RUN])
def test_a_python_block_runs(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in python_blocks() if block.startswith(first + "\n")]
    names: dict[str, Any] = {}
    exec(compile(block, first, "exec"), names)
    assert names["result"].solved_fraction == 1.0
    if "print" in block:
        assert "agents solved CartPole-v1" in capsys.readouterr().out
    if "export" in block:
        assert (tmp_path / "policy.onnx").stat().st_size > 1_000


def headings(text: str) -> set[str]:
    """The anchors of a document's headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in headings(target.read_text()), anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_lines_are_as_wide_as_those_of_code(document: Path) -> None:
    """Tables, code blocks and addresses may be wider."""
    lines = re.sub(r"https?://\S+", "", FENCE.sub("", document.read_text())).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_of_python_that_is_named_exists(document: Path) -> None:
    named = re.findall(r"\b(?:dqn|flows|serving|docker|benchmarks|tests)/[\w/]+\.py\b", document.read_text())
    assert [path for path in named if not (ROOT / path).is_file()] == []
