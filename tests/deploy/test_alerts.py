"""The alert rules: what they ask for exists, each is tested, explained, and routed."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.deploy.alerts_check import catalogue
from tests.deploy.alerts_check.rules import (
    ALERTMANAGER,
    PROMETHEUS,
    REPOSITORY,
    RULE_FILES,
    RULE_TESTS,
    Alert,
    alerts,
    load,
    shortened,
)

ALERTS = list(alerts())
METRICS = catalogue.metrics()
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
SECTIONS = ("What you see", "Why", "What to do")

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def selectors_of(expression: str) -> Iterator[promql_parser.VectorSelector]:
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return (node for node in found if isinstance(node, promql_parser.VectorSelector))


def groupings_of(expression: str) -> set[str]:
    return {
        label.strip()
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        for label in labels.split(",")
        if label.strip()
    }


def names_of(selector: promql_parser.VectorSelector) -> set[str]:
    """The metrics it picks: one by name, or those that exist and match a pattern."""
    if selector.name:
        return {selector.name}
    (pattern,) = (m.value for m in selector.matchers.matchers if m.name == "__name__")
    return {name for name in METRICS if re.fullmatch(pattern, name)}


@each_alert
def test_every_metric_of_a_rule_exists_with_the_labels_the_rule_asks_for(alert: Alert) -> None:
    selectors = list(selectors_of(alert.expression))
    assert selectors
    for selector in selectors:
        names = names_of(selector)
        assert names, f"{selector} picks nothing"
        asked = {m.name for m in selector.matchers.matchers} - {"__name__"}
        for name in names:
            assert name in METRICS, name
            assert asked <= METRICS[name], f"{name} has no label {asked - METRICS[name]}"
    known = frozenset().union(*(METRICS[n] for s in selectors for n in names_of(s)))
    assert groupings_of(alert.expression) <= known


@each_alert
def test_every_alert_says_what_is_wrong_how_much_and_where_to_read_on(alert: Alert) -> None:
    assert alert.annotations.keys() == {"summary", "description", "runbook_url"}
    assert alert.annotations["runbook_url"] == f"docs/runbook.md#{alert.name.lower()}"
    told = alert.annotations["summary"] + alert.annotations["description"]
    assert "$value" in told, "the current value"
    assert len(alert.annotations["description"]) > 60
    assert alert.labels.keys() == {"severity", "component"}
    assert alert.labels["severity"] in {"critical", "warning"}


def test_no_two_alerts_share_a_name() -> None:
    names = [alert.name for alert in ALERTS]
    assert len(names) == len(set(names)) > 15


def rule_tests() -> Iterator[tuple[str, bool]]:
    """Alert and whether it is expected to fire, for each case of the rule tests."""
    for path in RULE_TESTS:
        for test in load(path)["tests"]:
            for case in test["alert_rule_test"]:
                yield case["alertname"], bool(case.get("exp_alerts"))


@each_alert
def test_every_alert_has_a_rule_test_that_fires_and_one_that_stays_silent(alert: Alert) -> None:
    assert {fires for name, fires in rule_tests() if name == alert.name} == {True, False}


def test_every_rule_test_is_of_an_alert_there_is() -> None:
    assert {name for name, _ in rule_tests()} <= {alert.name for alert in ALERTS}


def runbook_entries() -> dict[str, str]:
    parts = re.split(r"^## (Nextclick\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_runbook_has_an_entry_for_each_alert_and_for_no_other() -> None:
    assert list(runbook_entries()) == [alert.name for alert in ALERTS], "in the order of the rules"


@each_alert
def test_every_runbook_entry_says_what_one_sees_why_and_what_to_do(alert: Alert) -> None:
    entry = runbook_entries()[alert.name]
    for section in SECTIONS:
        assert entry.count(f"**{section}.**") == 1, section
    assert re.search(r"`[a-z][\w./-]* [^`]+`", entry), "a command to run"


def jobs_of(expression: str) -> Iterator[tuple[str, bool]]:
    """Values of `job` that a rule asks for, and whether each is a pattern."""
    for selector in selectors_of(expression):
        for matcher in selector.matchers.matchers:
            if matcher.name == "job":
                yield matcher.value, "~" in str(matcher.op) or str(matcher.op).endswith("Re")


@each_alert
def test_every_job_of_a_rule_is_scraped(alert: Alert) -> None:
    scraped = {job["job_name"] for job in load(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    for job, is_pattern in jobs_of(alert.expression):
        if is_pattern and "(" in job:
            named = re.fullmatch(r"(.*)\((.*)\)", job)
            assert named is not None
            assert {named[1] + part for part in named[2].split("|")} <= scraped
        elif is_pattern:
            assert any(re.fullmatch(job, name) for name in scraped)
        else:
            assert job in scraped


def test_alertmanager_speaks_of_alerts_severities_and_receivers_there_are() -> None:
    config = load(ALERTMANAGER)
    names = {alert.name for alert in ALERTS}
    matchers = [
        matcher
        for rule in config["inhibit_rules"]
        for side in ("source_matchers", "target_matchers")
        for matcher in rule[side]
    ] + [matcher for route in config["route"]["routes"] for matcher in route["matchers"]]
    for matcher in matchers:
        label, _, values = re.fullmatch(r'(\w+)(=~|!=|=)"(.*)"', matcher).groups()  # type: ignore[union-attr]
        known = names if label == "alertname" else {"critical", "warning"}
        assert set(values.split("|")) <= known, matcher
    routed = {config["route"]["receiver"], *(r["receiver"] for r in config["route"]["routes"])}
    assert routed == {receiver["name"] for receiver in config["receivers"]}


def run_tool(tool: str, *arguments: str | Path, package: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is missing: apt-get install {package}")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    run_tool("promtool", "check", "config", PROMETHEUS / "prometheus.yml", package="prometheus")


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rule_tests_pass(path: Path) -> None:
    run_tool("promtool", "test", "rules", path, package="prometheus")


def test_amtool_accepts_alertmanagers_configuration() -> None:
    run_tool("amtool", "check-config", ALERTMANAGER, package="prometheus-alertmanager")


def test_a_quick_profile_shortens_every_duration_and_nothing_else() -> None:
    for path in RULE_FILES:
        rules = load(path)
        for before, after in zip(_rules(rules), _rules(shortened(rules, 30)), strict=True):
            assert [s // 30 for s in _seconds(before)] == _seconds(after)
            assert _without_durations(before) == _without_durations(after)


def _rules(content: Any) -> Iterator[dict[str, Any]]:
    return (rule for group in content["groups"] for rule in group["rules"])


_DURATION = re.compile(r"(?<=\[)\d+\w+(?=\])|(?<=offset )\d+\w+")


def _seconds(rule: dict[str, Any]) -> list[int]:
    """Every duration of a rule, as Prometheus itself would read it."""
    texts = _DURATION.findall(rule["expr"]) + ([rule["for"]] if "for" in rule else [])
    return [round(promql_parser.parse_duration(text).total_seconds()) for text in texts]


def _without_durations(rule: dict[str, Any]) -> dict[str, Any]:
    return {**rule, "expr": _DURATION.sub("", rule["expr"]), "for": ""}
