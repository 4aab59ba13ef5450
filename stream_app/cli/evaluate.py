"""`nextclick evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from stream_app.cli.options import with_settings
from stream_app.cli.traffic import ColumnMapping
from stream_app.core.errors import ConfigurationError
from stream_app.settings import Settings
from stream_app.tools.reports import write_report


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Model bundle to judge.")
@click.option("--data", type=click.Path(path_type=Path), help="Click file, or benchmark sequences.")
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
    bundle: Path | None,
    data: Path | None,
    file_format: str | None,
    columns: dict[str, str] | None,
    test_share: float,
    stream: bool,
    report: Path | None,
) -> None:
    """Judge a model on a file, or the stream's answers against an offline replay.

    On a file every next click of the test part is ranked among the whole catalogue, ties counted
    against the model, beside popularity and item-kNN.  With --stream every answer on the recommendations
    topic is computed anew from the click topic and compared, and the live hit rate with it.

    \b
    Examples:
      nextclick evaluate --bundle out/ --data sequences.parquet --report quality.json
      nextclick evaluate --stream --registry nextclick-data/registry
    """
    if stream == (bundle is not None or data is not None):
        raise ConfigurationError("give either --stream, or both --bundle and --data")
    if stream:
        figures = _evaluate_stream(settings)
    elif bundle is None or data is None:
        raise ConfigurationError(
            "--bundle and --data go together: a model, and clicks to judge it on"
        )
    else:
        from stream_app.tools.evaluate import evaluate_file  # noqa: PLC0415 - keeps --help quick

        figures = evaluate_file(
            bundle,
            data,
            file_format=file_format,
            columns=columns,
            test_share=test_share,
            settings=settings,
        )
        _print_models(figures)
    if report is not None:
        write_report(report, figures)


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
    _print_models(figures)
    return figures


def _print_models(figures: dict[str, Any]) -> None:
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
