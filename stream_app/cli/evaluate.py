"""`nextclick evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.table import Table

from stream_app.cli.options import with_settings
from stream_app.cli.traffic import ColumnMapping, Moment
from stream_app.core.errors import ConfigurationError
from stream_app.settings import Settings
from stream_app.tools.reports import write_report

if TYPE_CHECKING:
    from stream_app.evaluation.prequential import AnsweredAt
    from stream_app.evaluation.tune_statistics import PairChoice
    from stream_app.tools.evaluate import StatisticsTuning

SHOWN_CHOICES: Final = 10
TABLE_WIDTH: Final = 120
"""Characters a line, where the table goes into a file."""


@click.command()
@click.option(
    "--bundle",
    "bundles",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Model bundle to judge; several of one architecture give mean and deviation, too.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Click file, or benchmark sequences.")
@click.option(
    "--pairs",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Judge on these instead (Parquet: prefix, a list of item ids, and label).",
)
@click.option(
    "--rankers",
    metavar="NAME,...",
    default="popularity,recent-popularity,item-knn,session-knn,item2vec,bundle,two-stages,blend",
    show_default=True,
    help="Which to judge; what cannot be made is said and left out.",
)
@click.option(
    "--blend-weight",
    "blend_weights",
    type=click.FloatRange(0, 1),
    multiple=True,
    default=(0.5,),
    show_default=True,
    help="Share of the bundle in a blend with session-kNN; several give a row each.",
)
@click.option(
    "--format", "file_format", default=None, help="Format of the file [default: guessed]."
)
@click.option(
    "--columns",
    type=ColumnMapping(),
    metavar="OURS=COLUMN,...",
    help="Which column is which, e.g. session_id=visitor,item_id=sku,event_time=ts.",
)
@click.option(
    "--protocol",
    type=click.Choice(["static", "prequential"]),
    default="static",
    show_default=True,
    help="Learn once and be judged on later sessions; or learn click by click, each judged first.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Choose the half-lives of the stream statistics (statistics.*) on a click log.",
)
@click.option(
    "--from", "from_ms", type=Moment(), help="Prequential, tune: judge clicks from here on."
)
@click.option("--to", "to_ms", type=Moment(), help="And before this; what precedes --from is past.")
@click.option(
    "--version-seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Prequential: event time between versions of the statistics.",
)
@click.option(
    "--answered-at",
    type=click.Choice(["click", "next-click"]),
    default="click",
    show_default=True,
    help="Prequential: make a list when its session clicks, as on the stream, or just before it is judged.",
)
@click.option(
    "--half-life-minutes",
    "half_lives_minutes",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    default=(7.5, 60.0),
    show_default=True,
    help="Prequential: of recent popularity; several give a row each.",
)
@click.option(
    "--test-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Newest share of a click file's sessions to judge on; the rest is the baselines' past.",
)
@click.option("--stream", is_flag=True, help="Replay the click topic against the answers on Kafka.")
@click.option("--report", type=click.Path(path_type=Path), help="Write the figures as JSON.")
@with_settings("kafka.bootstrap_servers", "registry")
def evaluate(
    settings: Settings,
    bundles: tuple[Path, ...],
    data: Path | None,
    pairs: Path | None,
    rankers: str,
    blend_weights: tuple[float, ...],
    file_format: str | None,
    columns: dict[str, str] | None,
    protocol: str,
    tune: bool,
    from_ms: int | None,
    to_ms: int | None,
    version_seconds: float,
    answered_at: "AnsweredAt",
    half_lives_minutes: tuple[float, ...],
    test_share: float,
    stream: bool,
    report: Path | None,
) -> None:
    """Judge a model on a file, or the stream's answers against an offline replay.

    On a file every next click of the test part is ranked among the whole catalogue, ties counted
    against the ranker, by the bundles and by baselines tuned on the end of the training part.  Intervals
    are 95 % bootstraps over sessions.  With --stream every answer on the recommendations topic is
    computed anew from the click topic and compared, and the live hit rate with it.

    With --protocol prequential the clicks come in order of time through the worker's own code; each is
    judged by the answer before it, and learned from afterwards (serving.filter_seen and session.* apply).

    With --tune a sample of the newest 400,000 clicks is answered from the stream statistics at many
    half-lives, once with and once without what the session has clicked already; what fits best is printed as
    lines for nextclick.toml.

    \b
    Examples:
      nextclick evaluate --bundle out/ --data sequences.parquet --report quality.json
      nextclick evaluate --data sequences.parquet --pairs test_pairs.parquet --rankers session-knn
      nextclick evaluate --data clicks.parquet --protocol prequential --from 2017-10-13 --to 2017-10-14
      nextclick evaluate --tune --data clicks.parquet
      nextclick evaluate --stream --registry nextclick-data/registry
    """
    if stream == (bool(bundles) or data is not None or pairs is not None):
        raise ConfigurationError("give either --stream, or --data and what to judge on it")
    if tune and (stream or bundles or pairs is not None or protocol != "static"):
        raise ConfigurationError(
            "--tune goes with --data alone (and --from, --to): no model is judged"
        )
    if stream:
        figures = _evaluate_stream(settings)
        _print_live(figures)
    elif data is None:
        raise ConfigurationError(
            "--data is missing: clicks to judge on, and to learn baselines from"
        )
    else:
        from stream_app.tools import evaluate as tool  # noqa: PLC0415 - keeps --help quick

        common: dict[str, Any] = {
            "data": data,
            "bundles": bundles,
            "file_format": file_format,
            "columns": columns,
        }
        if tune:
            common.pop("bundles")
            plan = tool.StatisticsTuning(from_ms=from_ms, to_ms=to_ms, **common)
            figures = _tune(plan, settings)
        elif protocol == "prequential":
            if pairs is not None:
                raise ConfigurationError("--pairs have no clock: leave out --protocol prequential")
            figures = tool.evaluate_prequential(
                tool.StreamEvaluation(
                    from_ms=from_ms,
                    to_ms=to_ms,
                    version_seconds=version_seconds,
                    answered_at=answered_at,
                    half_lives_minutes=half_lives_minutes,
                    **common,
                ),
                settings,
                say=_say,
            )
        else:
            if from_ms is not None or to_ms is not None:
                raise ConfigurationError(
                    "--from and --to go with --protocol prequential, or --tune"
                )
            figures = tool.evaluate_file(
                tool.FileEvaluation(
                    pairs=pairs,
                    rankers=tuple(name.strip() for name in rankers.split(",")),
                    blend_weights=blend_weights,
                    test_share=test_share,
                    **common,
                ),
                settings,
                say=_say,
            )
        if not tune:
            _print_quality(figures)
    if report is not None:
        write_report(report, figures)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _tune(plan: "StatisticsTuning", settings: Settings) -> dict[str, Any]:
    from stream_app.tools import evaluate as tool  # noqa: PLC0415 - keeps --help quick

    figures, tuned = tool.tune_on_file(plan, settings, say=_say)
    days = (tuned.end_ms - tuned.begin_ms) / 86_400_000
    click.echo(
        f"{figures['date']}: {tuned.targets:,} next clicks of {figures['data']}, from its newest "
        f"{tuned.clicks:,} clicks ({days:.1f} days)"
    )
    console = Console(width=TABLE_WIDTH)
    table = Table(box=None, pad_edge=False)
    table.add_column("co-occurrence at", no_wrap=True)
    for heading in ("weights", "prior", "R@20", "MRR@20"):
        table.add_column(heading, justify="right", no_wrap=True)
    for choice in tuned.pairs[:SHOWN_CHOICES]:
        table.add_row(*_cells(choice))
    table.add_row("present settings:")
    table.add_row(*_cells(tuned.present))
    console.print(table)
    console.print(
        f"R@20 + MRR@20 of the best: {tuned.gain:+.4f} +- {tuned.gain_error:.4f} (standard error) "
        "against the present settings",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("popularity at", no_wrap=True)
    for heading in ("R@20", "MRR@20"):
        table.add_column(heading, justify="right", no_wrap=True)
    plain = [*tuned.popularity[:3], tuned.present_popularity]
    for row, popular in enumerate(plain):
        name = _span(popular.half_life_minutes) + (" (present)" if row == len(plain) - 1 else "")
        table.add_row(name, f"{popular.recall_20:.4f}", f"{popular.mrr_20:.4f}")
    console.print(table)
    chosen = figures["settings"]
    longest = max(chosen["half_life_minutes"], *chosen["pair_half_lives_minutes"])
    if longest > days * 1440:
        click.echo(
            f"{_span(longest)} is longer than the log looked at: here it means that nothing is forgotten"
        )
    repeats = tuned.repeats
    console.print(
        f"{repeats.share:.1%} of next clicks are on an item that the session had clicked.  With such items left "
        f"out {repeats.left_out[0]:.4f} / {repeats.left_out[1]:.4f}, kept {repeats.kept[0]:.4f} / "
        f"{repeats.kept[1]:.4f}: {repeats.gain:+.4f} +- {repeats.gain_error:.4f} by leaving them out",
        highlight=False,
    )
    for section, values in (
        ("serving", figures["serving_settings"]),
        ("statistics", chosen),
    ):
        click.echo(f"\n[{section}]")
        for name, value in values.items():
            click.echo(f"{name} = {str(value).lower() if isinstance(value, bool) else value}")
    return figures


def _cells(choice: "PairChoice") -> list[str]:
    return [
        " + ".join(map(_span, choice.half_lives_minutes)),
        " + ".join(f"{weight:g}" for weight in choice.weights),
        f"{choice.prior_clicks:g}",
        f"{choice.recall_20:.4f}",
        f"{choice.mrr_20:.4f}",
    ]


def _span(minutes: float) -> str:
    """5 min, 6 h, 30 d."""
    for unit, length in (("d", 1440), ("h", 60)):
        if minutes >= length and minutes % length == 0:
            return f"{minutes / length:g} {unit}"
    return f"{minutes:g} min"


def _evaluate_stream(settings: Settings) -> dict[str, Any]:
    from stream_app.tools.evaluate import evaluate_stream  # noqa: PLC0415 - keeps --help quick

    figures, check = evaluate_stream(settings)
    console = Console()
    console.print(
        f"{check.clicks} clicks, {check.answers} answered; {check.identical} answers "
        f"({100 * check.identical_share:.3f} %) are the same when computed anew"
    )
    for kind, count in check.differences.most_common():
        console.print(f"  {count} differ: {kind}")
    for example in check.examples:
        console.print(f"    {example}")
    return figures


def _print_quality(figures: dict[str, Any]) -> None:
    """A table dated, with a row per ranker."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("R@5", "R@10", "R@20", "95 %", "MRR@20", "95 %", "NDCG", "cover", "popular"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in figures["models"]:
        table.add_row(model["name"], *_figures_of(model))
    console.print(
        f"{figures['date']}: {figures['targets']:,} next clicks of {figures['data']}, "
        f"{figures['models'][0]['cold_targets']:,} of them on items never clicked before",
        soft_wrap=True,
        highlight=False,
    )
    console.print(table)
    for seeds in figures["over_seeds"]:
        console.print(
            f"{seeds['name']}, {seeds['bundles']} bundles: "
            f"R@20 {seeds['recall_20_mean']:.4f} +- {seeds['recall_20_sd']:.4f}, "
            f"MRR@20 {seeds['mrr_20_mean']:.4f} +- {seeds['mrr_20_sd']:.4f}",
            highlight=False,
        )
    for model in figures["models"]:
        for age in model.get("by_age", ()):
            console.print(
                f"{model['name']}, items {age['age']}: {age['targets']:,} targets, "
                f"R@20 {age['recall_20']:.4f}, MRR@20 {age['mrr_20']:.4f}",
                highlight=False,
            )
    for name, why in figures["skipped"].items():
        console.print(f"{name}: left out, {why}", highlight=False, soft_wrap=True)


def _figures_of(model: dict[str, Any]) -> list[str]:
    def interval(name: str) -> str:
        return f"{model[name + '_low']:.3f}-{model[name + '_high']:.3f}"

    return [
        *(f"{model[name]:.4f}" for name in ("recall_5", "recall_10", "recall_20")),
        interval("recall_20"),
        f"{model['mrr_20']:.4f}",
        interval("mrr_20"),
        *(f"{model[name]:.3f}" for name in ("ndcg_20", "coverage_20", "popularity_bias")),
    ]


def _print_live(figures: dict[str, Any]) -> None:
    models: Sequence[dict[str, Any]] = figures["models"]
    columns = [name for name in models[0] if name != "name"] if models else []
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for model in models:
        table.add_row(model["name"], *(_number(model[name]) for name in columns))
    console = Console()
    console.print(f"{figures['targets']:,} next clicks of {figures['data']}", soft_wrap=True)
    console.print(table)


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
