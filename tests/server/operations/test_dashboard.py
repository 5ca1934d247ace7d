"""The dashboard and the alert rules ask for metrics and labels that a server exports."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serve_process import MODEL, ServeProcess

FOLDER = Path(__file__).parents[3] / "examples" / "observability"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]

# What PromQL means by a word that is no metric; a function is known by its bracket.
WORDS = {"by", "and", "or", "unless", "on", "ignoring", "without"}
OF_THE_SCRAPE = {"job", "instance"}
"""Labels that Prometheus adds."""


def queries() -> list[str]:
    panels = [
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
    ]
    variables = [v["definition"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    return [*panels, *variables, *(rule["expr"] for rule in RULES)]


def parsed(query: str) -> tuple[dict[str, set[str]], set[str]]:
    """Return metric -> labels it is selected by, and the labels that are grouped by."""
    selected: dict[str, set[str]] = {}
    text = re.sub(r"label_values\((.*), (\w+)\)", r"\1 by (\2)", query)
    text = re.sub(r'"[^"]*"', '""', text)
    for name, labels in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", text):
        selected.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", labels))
    text = re.sub(r"[a-zA-Z_:][\w:]*\{[^}]*\}", " ", text)
    grouped = {
        label.strip() for part in re.findall(r"by \(([^)]*)\)", text) for label in part.split(",")
    }
    text = re.sub(r"by \([^)]*\)|\[[^]]*\]|\$\w+", " ", text)
    for word in re.findall(r"[a-zA-Z_:][\w:]*(?!\s*\()\b(?!\s*\()", text):
        if word not in WORDS:
            selected.setdefault(word, set())
    return selected, grouped


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Sample name -> labels, of a server that has served."""
    with ServeProcess() as server:
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 5}
        for change in ({}, {"model": "unknown"}):
            httpx.post(f"{server.url}/v1/completions", json={**body, **change}, timeout=60)
        text = httpx.get(f"{server.url}/metrics").text
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].update(sample.labels)
    found["up"] = set()
    return found


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_every_query_finds_what_it_asks_for(query: str, exported: dict[str, set[str]]) -> None:
    selected, grouped = parsed(query)
    assert selected
    for name, labels in selected.items():
        assert name in exported, f"no such metric: {name}"
        assert labels - OF_THE_SCRAPE <= exported[name], name
        assert grouped - OF_THE_SCRAPE <= exported[name], name
        if name.startswith(("vllm:", "windlass:")) and "$" in query:
            assert "job" in labels


def test_a_query_is_taken_apart_as_prometheus_does() -> None:
    query = 'histogram_quantile(0.9, sum by (le, x) (rate(a:b_bucket{k="v", l=~"$w"}[5m]))) > c / 3'
    selected, grouped = parsed(query)
    assert selected == {"a:b_bucket": {"k", "l"}, "c": set()}
    assert grouped == {"le", "x"}


def test_alerts_are_complete_and_have_names_of_their_own() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}


def test_grafana_can_import_the_dashboard() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "job", "model_name", "instance"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["type"], panel["title"]) for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in ("row", "timeseries", "stat", "heatmap")
        targets = panel.get("targets", [])
        assert len({target["refId"] for target in targets}) == len(targets)
        assert bool(targets) is (panel["type"] != "row")
        for source in [panel, *targets] if targets else []:
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    used = set(re.findall(r"\$(\w+)", json.dumps(panels)))
    assert used - {"__rate_interval"} <= set(variables)


def covers(position: dict[str, int]) -> tuple[range, range]:
    x, y = position["x"], position["y"]
    return range(x, x + position["w"]), range(y, y + position["h"])


def meet(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def test_panels_lie_beside_each_other() -> None:
    positions: list[dict[str, Any]] = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for position in positions:
        assert position["x"] in range(25 - position["w"])
    for one, other in combinations(map(covers, positions), 2):
        assert not (meet(one[0], other[0]) and meet(one[1], other[1]))
