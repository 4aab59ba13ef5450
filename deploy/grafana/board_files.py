"""Dashboards as they lie on disk: their panels and queries, as a check or a test looks at them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.grafana.generate import FOLDER

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    """With Grafana's variables in it."""


def boards(folder: Path = FOLDER) -> dict[str, Json]:
    """Every dashboard by its uid."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {board["uid"]: board for board in found}


def panels(board: Json) -> list[Json]:
    """Those that show something: rows are left out."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: Json) -> Iterator[Query]:
    """Of its panels, in order."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield Query(board["uid"], panel["title"], target["refId"], target["expr"])


def annotation_queries(board: Json) -> list[str]:
    return [entry["expr"] for entry in board["annotations"]["list"]]


def with_values(
    expr: str,
    *,
    window: str = "5m",
    rate_interval: str = "1m",
    job: str = ".*",
    instance: str = ".*",
) -> str:
    """The query as Grafana would send it."""
    values = {
        "$__rate_interval": rate_interval,
        "$__interval": rate_interval,
        "$window": window,
        "$job": job,
        "$instance": instance,
    }
    for variable, value in values.items():
        expr = expr.replace(variable, value)
    return expr
