"""What the dashboards have in common: variables, links to each other and to the runbook, and their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLink,
    DashboardLinkType,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panels import SOURCE, Limits, Panel, number
from deploy.grafana.queries import WINDOW, grown, total

TAG: Final = "nextclick"
DOCS_ADDRESS: Final = "http://localhost:8000"
"""Where `mkdocs serve` shows the documentation; a text box changes it."""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: Sequence[Panel]


def dashboard(name: str, description: str, rows: Sequence[Row]) -> Dashboard:
    """One dashboard; its address in Grafana is `/d/nextclick-<name>`."""
    board = (
        boards.Dashboard(f"nextclick: {name}")
        .uid(f"{TAG}-{name.lower()}")
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .timezone("browser")
        .refresh("10s")
        .variables(_variables())
        .links(_links())
        .annotation(_swaps())
    )
    for row in rows:
        board.with_row(boards.Row(row.title))
        for panel in row.panels:
            board.with_panel(panel)
    built = board.build()
    for panel_id, placed in enumerate(built.panels or [], 1):
        placed.id_val = panel_id  # links to a panel go by it
    return built


def alerts_firing() -> Panel:
    """The first number of each dashboard: whether somebody has to do something."""
    firing = 'ALERTS{alertstate="firing",alertname=~"Nextclick.*"}'
    return number(
        "Alerts firing",
        f"count({firing}) or vector(0)",
        unit="none",
        meaning="Alerts of nextclick that fire now, of all jobs. Above 0: Alertmanager says which, and the runbook "
        "has an entry for each. 0 also where Prometheus does not have the rules of deploy/prometheus.",
        limits=Limits(warn=1, bad=1),
        width=3,
    )


def _links() -> list[Builder[DashboardLink]]:
    others = (
        boards.DashboardLink("nextclick")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
    runbook = (
        boards.DashboardLink("Runbook")
        .type(DashboardLinkType.LINK)
        .icon("doc")
        .tooltip("What to do about each alert")
        .url("${docs}/runbook.html")
        .target_blank(True)
    )
    return [others, runbook]


def _swaps() -> boards.AnnotationQuery:
    """A mark wherever another model took over."""
    taken_over = total(grown("nextclick_model_swaps_total", 'result="live"', over="$__interval"))
    return (
        boards.AnnotationQuery()
        .name("Model swaps")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("purple")
        .expr(f"{taken_over} > 0")
        .step("15s")
        .title_format("another model is live")
    )


def _variables() -> list[Builder[VariableModel]]:
    everything = VariableOption(selected=True, text="All", value="$__all")

    def labels(name: str, query: str, description: str) -> boards.QueryVariable:
        return (
            boards.QueryVariable(name)
            .label(name.capitalize())
            .description(description)
            .datasource(SOURCE)
            .query({"query": query, "refId": f"variable-{name}"})
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.NATURAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(everything)
        )

    return [
        boards.DatasourceVariable("datasource").label("Source").type("prometheus"),
        labels("job", "label_values(process_start_time_seconds, job)", "Which kinds of process"),
        labels(
            "instance",
            'label_values(process_start_time_seconds{job=~"$job"}, instance)',
            "Which of them, by address",
        ),
        boards.IntervalVariable(WINDOW.removeprefix("$"))
        .label("Window")
        .description(
            "Over how long shares are taken: longer is calmer, shorter sees a change sooner"
        )
        .values("1m,2m,5m,15m,1h,6h")
        .current(VariableOption(selected=True, text="5m", value="5m")),
        boards.TextBoxVariable("docs")
        .label("Documentation")
        .description("Where `make docs` is served: links to the runbook begin with it")
        .default_value(DOCS_ADDRESS)
        .hide(VariableHide.HIDE_VARIABLE),
    ]
