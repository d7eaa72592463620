"""Prometheus' rules and Grafana's dashboard name what the server exposes, and both are set up from files."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from stack import MONITORING_PORTS, Stack, read_env

from serving.application import App
from serving.inference.shadow import Shadow
from serving.models.follower import Models
from tests.support.serving.clients import infer
from tests.support.serving.faulty import Registry
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker/monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
ASKED = {rule["alert"]: [rule["expr"]] for rule in RULES} | {
    panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS
}
SERIES = re.compile(r"\b((?:serving|process)_\w+)(?:\{([^}]*)\})?")


@pytest.fixture(scope="module")
def exposed() -> dict[str, list[dict[str, str]]]:
    """The labels of each series by name, after one request with a challenger in the shadow."""

    async def run() -> str:
        ranged = PROPERTIES | {"observed": json.dumps([[-1, 1]] * 4)}
        registry = Registry(*(linear_model(BALANCES, bias=bias, properties=ranged) for bias in (0, 1)))
        registry.aliases["challenger"] = "2"
        models = Models(registry, alias="champion", version=None)
        app = App(models, shadow=Shadow(models, "challenger", canary_share=0.5, draw=lambda: 0.0))
        await models.poll()
        assert app.live
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app.asgi), base_url="http://localhost") as client:
            for headers in ({}, {"X-Canary": "0"}):
                assert (await client.post("/v2/models/dqn/infer", json=infer(1), headers=headers)).status_code == 200
            app.metrics.returns.observe("1", 500, disturbed=False)
            text = (await client.get("/metrics")).text
        app.close()
        return text

    found: dict[str, list[dict[str, str]]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", asyncio.run(run()), re.MULTILINE):
        found.setdefault(name, []).append(dict(re.findall(r'(\w+)="([^"]*)"', labels)))
    return found


@pytest.mark.parametrize("title", ASKED)
def test_every_series_of_a_rule_or_a_panel_is_exposed_with_its_labels(
    title: str, exposed: dict[str, list[dict[str, str]]]
) -> None:
    for expression in ASKED[title]:
        series = SERIES.findall(expression)
        assert series or expression.startswith("up{"), "it asks for none"
        for name, selector in series:
            assert name in exposed, f"{expression} names {name}"
            assert re.findall(r"(\w+)=", selector) == [
                label for label in re.findall(r"(\w+)=", selector) if label in exposed[name][0]
            ]
            grouped = {
                label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")
            }
            assert grouped - {"le"} <= exposed[name][0].keys(), f"{name} has {[*exposed[name][0]]}"
        for route in re.findall(r'route=~"([^"]*)"', expression):
            assert any(re.fullmatch(route, labels["route"]) for labels in exposed["serving_requests_total"])
        for agreed in re.findall(r'agreed="([^"]*)"', expression):
            assert agreed in {labels["agreed"] for labels in exposed["serving_shadow_steps_total"]}


def test_a_text_of_an_alert_or_a_legend_uses_labels_that_its_expression_keeps() -> None:
    for rule in RULES:
        assert rule["labels"].keys() == {"severity"}
        assert rule["annotations"].keys() == {"summary"}
    for panel in PANELS:
        for target in panel["targets"]:
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            by = re.search(r"by \(([^)]*)\)", target["expr"])
            assert by is None or used <= {label.strip() for label in by[1].split(",")}, target["expr"]
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_both_are_set_up_from_files_and_listen_on_this_machine_alone(services: dict[str, Any]) -> None:
    mounted: dict[str, str] = {}
    for name, variable in MONITORING_PORTS.items():
        service = services[name]
        assert service["profiles"] == ["monitoring"]
        assert re.search(r":v?\d+\.\d+", service["image"]), "a version, as of the other images"
        (port,) = service["ports"]
        assert port.startswith(f"127.0.0.1:${{{variable}:-{read_env(ROOT / 'docker/.env.example')[variable]}}}:")
        mounted |= dict(each.split(":")[:2] for each in service["volumes"] if each.startswith("."))
    assert {ROOT / "docker" / path for path in mounted} == set(FOLDER.iterdir())
    read = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert read["rule_files"] == [mounted["./monitoring/alerts.yml"]]
    targets = [
        target for job in read["scrape_configs"] for each in job.get("static_configs", []) for target in each["targets"]
    ]
    assert targets == ["serving:8000"]
    assert set(services["prometheus"]["networks"]) & set(services["serving"]["networks"])
    (source,) = yaml.safe_load((FOLDER / "grafana.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
    (provider,) = yaml.safe_load((FOLDER / "dashboards.yml").read_text())["providers"]
    assert Path(mounted["./monitoring/dashboard.json"]).parent == Path(provider["options"]["path"])


def test_a_profile_is_an_option_of_compose_and_not_of_its_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.compose_command", lambda: ("docker-compose",))
    env = ROOT / "docker/.env.example"
    plain, monitored = Stack(env_file=env), Stack(env_file=env, profiles=["monitoring"])
    assert "--profile=monitoring" in monitored.command("up", "--detach")[:-2]
    assert monitored.ports() == plain.ports() | {"prometheus": 9090, "grafana": 3000}
    assert not [word for word in plain.command("up") if "profile" in word]
