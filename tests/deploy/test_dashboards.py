"""The dashboards say what the code shows: generated, complete, and every query about metrics that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.board_files import annotation_queries, boards, panels, queries, with_values
from deploy.grafana.generate import FOLDER, as_json
from tests.deploy.metrics_in_code import labels_by_sample

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
IN_GRAFANA = "/etc/grafana/dashboards"
BOARDS = boards()
EVERY_PANEL = [
    pytest.param(panel, id=f"{uid}: {panel['title']}")
    for uid, board in BOARDS.items()
    for panel in panels(board)
]
EVERY_QUERY = [
    pytest.param(query.expr, id=f"{query.dashboard}: {query.panel} {query.ref}")
    for board in BOARDS.values()
    for query in queries(board)
] + [
    pytest.param(expr, id=f"{uid}: annotation")
    for uid, board in BOARDS.items()
    for expr in annotation_queries(board)
]
OF_PROMETHEUS = {
    "ALERTS": {"alertname", "alertstate"},
    "up": set(),
}
"""What Prometheus itself adds."""
SCRAPED = {"job", "instance"}
"""Labels that Prometheus gives each series."""


def test_there_are_the_five_dashboards() -> None:
    assert {board["title"] for board in BOARDS.values()} == {
        f"nextclick: {name}" for name in ("Answers", "Flow", "Gateway", "State", "Models")
    }


def test_the_files_are_what_the_code_makes() -> None:
    on_disk = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert on_disk == as_json(), "run: python -m deploy.grafana.generate"


@pytest.mark.parametrize("uid", BOARDS)
def test_a_dashboard_survives_the_way_through_the_sdk(uid: str) -> None:
    """A key that Grafana's schema does not know would be lost on the way."""
    register_default_plugins()
    again = Dashboard.from_json(dict(BOARDS[uid]))
    assert json.loads(json.dumps(again, cls=JSONEncoder)) == BOARDS[uid]


@pytest.mark.parametrize("panel", EVERY_PANEL)
def test_every_panel_says_what_it_is_what_to_do_and_in_which_unit(panel: dict[str, Any]) -> None:
    description = panel["description"]
    assert len(description) > 60
    assert len(re.findall(r"[.:;?]\s", description)) >= 1, (
        "what it is, and what to do when it moves"
    )
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"]
    for target in panel["targets"]:
        assert target["legendFormat"], "a series without a name shows as its labels"
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["showLegend"]


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_lie_side_by_side_and_fill_their_rows(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[uid]["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (max(y for _, y in taken) + 1), "no holes"


@pytest.mark.parametrize("uid", BOARDS)
def test_no_two_panels_have_the_same_title_or_id(uid: str) -> None:
    shown, all_ids = panels(BOARDS[uid]), [panel["id"] for panel in BOARDS[uid]["panels"]]
    assert len({panel["title"] for panel in shown}) == len(shown)
    assert len(set(all_ids)) == len(all_ids)


@pytest.mark.parametrize("uid", BOARDS)
def test_one_gets_from_a_dashboard_to_the_others_and_to_the_runbook(uid: str) -> None:
    board = BOARDS[uid]
    others, runbook = board["links"]
    assert others["type"] == "dashboards"
    assert set(others["tags"]) <= set(board["tags"])
    assert others["keepTime"]
    assert others["includeVars"]
    assert runbook["url"] == "${docs}/runbook.html"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert variables == {"datasource", "job", "instance", "window", "docs"}


def _alerts() -> set[str]:
    files = (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")
    return {
        rule["alert"]
        for file in files
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def test_panels_lead_to_the_runbook_entries_of_alerts_that_exist() -> None:
    entries = {f"${{docs}}/runbook.html#{alert.lower()}" for alert in _alerts()}
    linked = {
        link["url"]
        for board in BOARDS.values()
        for panel in panels(board)
        for link in panel.get("links", [])
    }
    assert linked
    assert linked <= entries


@pytest.mark.parametrize("expr", EVERY_QUERY)
def test_every_query_is_promql_about_metrics_that_exist_with_the_labels_they_have(
    expr: str,
) -> None:
    parsed = promql_parser.parse(with_values(expr))
    selectors = list(_selectors(parsed))
    assert selectors or expr == "vector(1)", "a line at 1 to compare with is all that needs none"
    known = {**labels_by_sample(), **OF_PROMETHEUS}
    grouped = _grouped_by(parsed)
    possible: set[str] = set()
    for selector in selectors:
        assert selector.name in known, f"{selector.name} is no metric of this code"
        labels = known[selector.name] | SCRAPED
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= labels
        possible |= labels
        if selector.name not in OF_PROMETHEUS:
            assert matched >= SCRAPED, "the variables job and instance narrow every panel"
    assert grouped <= possible, "grouped by a label that is not there"


@pytest.mark.parametrize("panel", EVERY_PANEL)
def test_a_legend_names_only_labels_that_its_query_leaves(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        named = set(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]))
        parsed = promql_parser.parse(with_values(target["expr"]))
        left = _grouped_by(parsed)
        if not left:  # no aggregation: all labels are left
            left = set().union(
                *(
                    labels_by_sample()[s.name]
                    for s in _selectors(parsed)
                    if s.name in labels_by_sample()
                )
            ) | (SCRAPED if not _aggregates(parsed) else set())
        assert named <= left


def test_provisioning_reads_the_folder_and_the_source_that_the_dashboards_mean() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    [provider] = yaml.safe_load((folder / "dashboards" / "nextclick.yml").read_text())["providers"]
    assert provider["options"]["path"] == IN_GRAFANA


@pytest.mark.skipif(not COMPOSE.exists(), reason="docker-compose.yml is not there yet")
def test_compose_mounts_dashboards_and_provisioning_where_grafana_looks() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    mounted = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    assert mounted["./deploy/grafana/dashboards"] == IN_GRAFANA
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"


def _walk(expr: Any) -> Iterator[Any]:
    found: list[Any] = []
    promql_parser.walk(expr, found.append)
    return iter(found)


def _selectors(expr: Any) -> Iterator[Any]:
    for node in _walk(expr):
        if isinstance(node, promql_parser.VectorSelector):
            yield node


def _aggregates(expr: Any) -> bool:
    return any(isinstance(node, promql_parser.AggregateExpr) for node in _walk(expr))


def _grouped_by(expr: Any) -> set[str]:
    return {
        label
        for node in _walk(expr)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
        for label in node.modifier.labels
    }
