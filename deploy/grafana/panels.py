"""The two kinds of panel all dashboards are made of: a number now, and lines over time."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    FieldColorSeriesByMode,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)

SOURCE: Final = common.DataSourceRef(type_val="prometheus", uid="${datasource}")

SHARE: Final = "percentunit"
SECONDS: Final = "s"
BYTES: Final = "bytes"
BYTES_PER_SECOND: Final = "Bps"
COUNT: Final = "short"
PER_SECOND: Final = "suffix:/s"
"""Not `si:/s`: a click in ten seconds would read as 100 m/s."""
TIMES: Final = "suffix:×"  # noqa: RUF001 - the sign for times is meant
YES_NO: Final = "bool_yes_no"

GREEN, YELLOW, RED, GREY = "green", "#EAB839", "red", "#8e8e99"
NUMBER_HEIGHT: Final = 4
CHART_HEIGHT: Final = 8

BARS_EVERY: Final = "1m"
"""Bars stand so far apart at least, and further on a long range: each event is in one of them, not in four."""

NO_MODEL_YET: Final = ("^none$", "no model yet")
"""How the label of answers before the first model reads in a legend."""

Panel = stat.Panel | timeseries.Panel


@dataclass(frozen=True, slots=True)
class Line:
    """A query, and what its series are called: `{{label}}` stands for a label's value."""

    expr: str
    name: str
    dashed: bool = False
    """Something to compare with, drawn dashed and grey."""
    on_the_right: bool = False
    """By an axis of its own: of another size than the others."""


@dataclass(frozen=True, slots=True)
class Limits:
    """From which value on a number is no longer green.  Where less is worse, give them descending."""

    warn: float
    bad: float

    def steps(self) -> list[Threshold]:
        if self.warn <= self.bad:
            return [_step(GREEN), _step(YELLOW, self.warn), _step(RED, self.bad)]
        return [_step(RED), _step(YELLOW, self.bad), _step(GREEN, self.warn)]


def _step(color: str, value: float | None = None) -> Threshold:
    return Threshold(value=value, color=color)


def number(
    title: str,
    expr: str,
    *,
    unit: str,
    meaning: str,
    limits: Limits | None = None,
    decimals: float | None = None,
    alert: str | None = None,
    width: int = 4,
    words: dict[str, str] | None = None,
) -> stat.Panel:
    """What is so now, with its course behind it.

    meaning: what it is and what to do when it moves.  alert: the alert whose runbook entry helps on.
    words: what to write instead of some values.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(meaning)
        .datasource(SOURCE)
        .with_target(_target(Line(expr, title), 0))
        .unit(unit)
        .thresholds(_thresholds(limits))
        .reduce_options(build.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common.BigValueGraphMode.AREA)
        .color_mode(common.BigValueColorMode.VALUE if limits else common.BigValueColorMode.NONE)
        .no_value("none yet")
        .span(width)
        .height(NUMBER_HEIGHT)
    )
    if decimals is not None:
        panel.decimals(decimals)
    if words:
        panel.mappings([_mapping(words)]).graph_mode(common.BigValueGraphMode.NONE)
    if alert:
        panel.links([runbook_link(alert)])
    return panel


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    unit: str,
    meaning: str,
    alert: str | None = None,
    stacked: bool = False,
    bars: bool = False,
    ceiling: float | None = None,
    logarithmic_from: float | None = None,
    width: int = 12,
    decimals: float | None = None,
    named_by: tuple[str, str] | None = None,
) -> timeseries.Panel:
    """Lines over time; see `number`.

    stacked: the lines add up to something.  bars: events, rather than a course; let them grow over `MOMENT`.  ceiling: the highest value
    there can be.  logarithmic_from: the lowest value of a logarithmic scale.  named_by: a pattern in series names, and what is put in its place.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(meaning)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .color_scheme(_palette())
        .thresholds(_thresholds(None))
        .line_width(1 if stacked else 2)
        .fill_opacity(35 if stacked else 8)
        .gradient_mode(
            common.GraphGradientMode.NONE if stacked else common.GraphGradientMode.OPACITY
        )
        .line_interpolation(common.LineInterpolation.LINEAR)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(_legend())
        .tooltip(
            build.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .span(width)
        .height(CHART_HEIGHT)
    )
    for position, line in enumerate(lines):
        panel.with_target(_target(line, position, every=BARS_EVERY if bars else None))
        if line.dashed:
            panel.override_by_query(_ref(position), _as_a_comparison())
        if line.on_the_right:
            panel.override_by_query(_ref(position), _with_an_axis_on_the_right(line))
    if stacked:
        panel.stacking(build.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if bars:
        panel.draw_style(common.GraphDrawStyle.BARS).fill_opacity(80)
    if ceiling is not None:
        panel.max(ceiling)
    if logarithmic_from is not None:
        panel.scale_distribution(
            build.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        ).min(logarithmic_from)
    if decimals is not None:
        panel.decimals(decimals)
    if named_by is not None:
        pattern, name = named_by
        panel.with_transformation(
            DataTransformerConfig(
                id_val="renameByRegex", options={"regex": pattern, "renamePattern": name}
            )
        )
    if alert:
        panel.links([runbook_link(alert)])
    return panel


def runbook_link(alert: str) -> boards.DashboardLink:
    """To what is to be done about an alert."""
    return (
        boards.DashboardLink(f"Runbook: {alert}")
        .type(DashboardLinkType.LINK)
        .url(f"${{docs}}/runbook.html#{alert.lower()}")
        .target_blank(True)
    )


def _target(line: Line, position: int, *, every: str | None = None) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .datasource(SOURCE)
        .expr(line.expr)
        .legend_format(line.name)
        .range()
        .ref_id(_ref(position))
    )
    return target.interval(every) if every else target


def _ref(position: int) -> str:
    return string.ascii_uppercase[position]


def _as_a_comparison() -> list[DynamicConfigValue]:
    return [
        DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": GREY}),
        DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]}),
        DynamicConfigValue(id_val="custom.fillOpacity", value=0),
    ]


def _with_an_axis_on_the_right(line: Line) -> list[DynamicConfigValue]:
    return [
        DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
        DynamicConfigValue(id_val="custom.axisLabel", value=line.name),
        DynamicConfigValue(id_val="unit", value="locale"),  # a scale goes by its unit
    ]


def _legend() -> build.VizLegendOptions:
    return (
        build.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull"])
    )


def _palette() -> boards.FieldColor:
    return (
        boards.FieldColor()
        .mode(FieldColorModeId.PALETTE_CLASSIC)
        .series_by(FieldColorSeriesByMode.LAST)
    )


def _thresholds(limits: Limits | None) -> boards.ThresholdsConfig:
    steps = limits.steps() if limits else [_step(GREEN)]
    return boards.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _mapping(words: dict[str, str]) -> ValueMapping:
    return ValueMap(options={value: ValueMappingResult(text=text) for value, text in words.items()})
