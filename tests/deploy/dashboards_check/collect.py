"""What every panel shows of a run: its series from Prometheus, and how many there are."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import promql_parser

from deploy.grafana.board_files import annotation_queries, boards, panels, with_values
from tests.deploy.dashboards_check.shop import SCRAPE_SECONDS, Shop

STEP_SECONDS: Final = 5
BARS_STEP_SECONDS: Final = 4 * SCRAPE_SECONDS
"""Grafana's `interval` of a minute is four scrapes where it reads; here they are shorter."""
WINDOW: Final = "2m"


@dataclass(frozen=True, slots=True)
class Filled:
    """One query of one panel."""

    dashboard: str
    panel: str
    query: str
    series: int
    """Those with a number in them."""
    points: int
    expr: str

    @property
    def is_empty(self) -> bool:
        return self.series == 0


def collect(shop: Shop) -> tuple[list[Filled], dict[str, Any]]:
    """A row per query; and all series, for the drawing: by dashboard, panel id and query."""
    table: list[Filled] = []
    series: dict[str, Any] = {}
    marks: dict[str, Any] = {}
    steps: dict[str, Any] = {}
    for uid, board in boards().items():
        series[uid], steps[uid] = {}, {}
        for panel in panels(board):
            found: dict[str, Any] = {}
            are_bars = any("interval" in target for target in panel["targets"])
            step = BARS_STEP_SECONDS if are_bars else STEP_SECONDS
            steps[uid][str(panel["id"])] = step
            for target in panel["targets"]:
                expr = as_sent(target["expr"], step_seconds=step)
                found[target["refId"]] = shop.over_time(expr, step_seconds=step)
                table.append(
                    filled(
                        board["title"],
                        panel["title"],
                        target["refId"],
                        expr,
                        found[target["refId"]],
                    )
                )
            series[uid][str(panel["id"])] = found
        marks[uid] = [
            shop.over_time(as_sent(expr), step_seconds=STEP_SECONDS)
            for expr in annotation_queries(board)
        ]
    everything = {
        "from": shop.began,
        "to": time.time(),
        "step": STEP_SECONDS,
        "window": WINDOW,
        "boards": boards(),
        "series": series,
        "steps": steps,
        "annotations": marks,
    }
    return table, everything


def as_sent(expr: str, *, step_seconds: int = STEP_SECONDS) -> str:
    """With Grafana's values for this run's scrape interval; raises where it is no PromQL."""
    rate_seconds = max(step_seconds + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)
    sent = with_values(expr, window=WINDOW, rate_interval=f"{rate_seconds}s")
    promql_parser.parse(sent)
    return sent


def as_rows(table: list[Filled]) -> list[dict[str, Any]]:
    return [asdict(row) for row in table]


def filled(board: str, panel: str, query: str, expr: str, result: list[dict[str, Any]]) -> Filled:
    """Count what Prometheus answered: series with a number in them, and numbers."""
    numbers = [sum(math.isfinite(float(value)) for _, value in one["values"]) for one in result]
    return Filled(board, panel, query, sum(n > 0 for n in numbers), sum(numbers), expr)
