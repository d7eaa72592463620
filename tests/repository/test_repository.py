"""What a public repository promises: workflows that do what CI does, metadata that agree, types that ship."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS: Final = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text())
    return content


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def verbs(text: str) -> set[str]:
    """The verbs of make that a script runs."""
    return set(re.findall(r"^\s*make ([a-z-]+)", text, re.MULTILINE))


def test_the_workflow_runs_the_verbs_of_ci() -> None:
    scripts = [step["run"] for step in steps(load(ROOT / ".github/workflows/ci.yml")) if "run" in step]
    expected = verbs((ROOT / ".ci/run").read_text())
    assert {"test", "test-stack"} <= expected
    assert verbs("\n".join(scripts)) == expected


def test_every_verb_that_a_workflow_runs_is_one_of_the_makefile() -> None:
    defined = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in WORKFLOWS:
        used = verbs("\n".join(step.get("run", "") for step in steps(load(path))))
        assert used, path
        assert used <= defined


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_well_formed_and_may_only_read(path: Path) -> None:
    workflow = load(path)
    assert workflow[True], "YAML takes the key `on` for a truth value"
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


def test_every_supported_python_is_tested() -> None:
    matrix = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    assert matrix == [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert PROJECT["requires-python"] == f">={matrix[0]}"


def test_the_benchmark_runs_every_night() -> None:
    (schedule,) = load(ROOT / ".github/workflows/benchmark.yml")[True]["schedule"]
    minute, hour, *rest = schedule["cron"].split()
    assert int(minute) < 60
    assert int(hour) < 24
    assert rest == ["*", "*", "*"]


def test_licence_version_and_title_agree_wherever_they_stand() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert (citation["title"], citation["version"], citation["license"]) == (
        PROJECT["name"],
        PROJECT["version"],
        PROJECT["license"],
    )
    assert (ROOT / PROJECT["license-files"][0]).read_text().startswith("MIT License\n")
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_forms_for_issues_ask_for_something() -> None:
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for form in map(load, forms):
        assert {"name", "description", "body"} <= set(form)
        assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_hooks_run_verbs_of_the_makefile() -> None:
    (local,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert verbs("\n".join(hook["entry"] for hook in local["hooks"])) == {"lint", "types"}


@pytest.mark.parametrize("package", ["dqn", "flows", "serving"])
def test_types_ship_with_the_packages(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data["*"]
