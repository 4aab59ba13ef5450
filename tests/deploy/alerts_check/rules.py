"""The alert rules as they are delivered, and the same with all their durations shortened."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).parents[3]
PROMETHEUS: Final = REPOSITORY / "deploy" / "prometheus"
ALERTMANAGER: Final = REPOSITORY / "deploy" / "alertmanager" / "alertmanager.yml"
RULE_FILES: Final = tuple(sorted((PROMETHEUS / "rules").glob("*.yml")))
RULE_TESTS: Final = tuple(sorted((PROMETHEUS / "rule_tests").glob("*.yml")))

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOW: Final = re.compile(r"(\[|\boffset )(\d+)([smhd])\b")
_WHOLE: Final = re.compile(r"(\d+)([smhd])")


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule."""

    name: str
    expression: str
    hold: str
    """How long it must be true; `0s` where at once."""
    labels: dict[str, str]
    annotations: dict[str, str]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def alerts() -> Iterator[Alert]:
    """In the order of the files."""
    for path in RULE_FILES:
        for group in load(path)["groups"]:
            for rule in group["rules"]:
                yield Alert(
                    name=rule["alert"],
                    expression=rule["expr"],
                    hold=rule.get("for", "0s"),
                    labels=rule["labels"],
                    annotations=rule["annotations"],
                )


def shortened(rules: Any, factor: float) -> Any:
    """The content of a rule file with every `for`, window and offset divided by `factor`.

    Thresholds, expressions, labels and texts stay as they are.
    """
    groups = [
        {**group, "rules": [_shortened_rule(rule, factor) for rule in group["rules"]]}
        for group in rules["groups"]
    ]
    return {**rules, "groups": groups}


def _shortened_rule(rule: dict[str, Any], factor: float) -> dict[str, Any]:
    def window(match: re.Match[str]) -> str:
        return match[1] + _divided(match[2], match[3], factor)

    changed = {**rule, "expr": _WINDOW.sub(window, rule["expr"])}
    if "for" in rule:
        changed["for"] = shortened_duration(rule["for"], factor)
    return changed


def shortened_duration(text: str, factor: float) -> str:
    """
    >>> shortened_duration("10m", 30)
    '20s'
    """
    match = _WHOLE.fullmatch(text)
    assert match is not None, f"write a duration of one unit, not {text}"
    return _divided(match[1], match[2], factor)


def _divided(number: str, unit: str, factor: float) -> str:
    """At least a second: Prometheus evaluates no more often here."""
    return f"{max(1, round(int(number) * _UNITS[unit] / factor))}s"
