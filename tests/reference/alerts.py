"""Reference of the alerts: the rules that Prometheus is given, with the words an operator reads."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.reference.source import table

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"

HEAD = """
The rules under `deploy/prometheus`. Each has an entry in the [runbook](../runbook.md): what you see, why, and what to do. **N** is the value
at that moment.
"""


def page() -> Iterator[str]:
    """A row per alert in the order of the rules, then a section for each."""
    yield "# Alerts"
    yield HEAD
    rules = list(every_alert())
    yield from table(
        ("alert", "severity", "after", "meaning"),
        (
            (
                f"[{rule['alert']}](#{rule['alert'].lower()})",
                rule["labels"]["severity"],
                str(rule.get("for", "0s")),
                _filled_in(rule["annotations"]["summary"]),
            )
            for rule in rules
        ),
    )
    for rule in rules:
        yield ""
        yield f"## {rule['alert']}"
        yield ""
        yield " ".join(_filled_in(rule["annotations"]["description"]).split())
        yield ""
        yield "```promql"
        yield rule["expr"].strip()
        yield "```"
        yield ""
        runbook = rule["annotations"]["runbook_url"].removeprefix("docs/")
        yield f"[What to do](../{runbook})"


def _filled_in(text: str) -> str:
    """What Prometheus puts into a text, in words."""
    text = re.sub(r"\{\{ \$value[^}]*\}\}", "**N**", text)
    return re.sub(r"\{\{ \$labels\.(\w+)[^}]*\}\}", r"*\1*", text)


def every_alert() -> Iterator[dict[str, Any]]:
    """The alerting rules of all rule files."""
    for path in sorted(RULES.rglob("*.y*ml")):
        content = yaml.safe_load(path.read_text())
        groups = content.get("groups", []) if isinstance(content, dict) else []
        for group in groups:
            yield from (rule for rule in group.get("rules", []) if "alert" in rule)
