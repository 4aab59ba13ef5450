"""`make bench`: what one worker does on this machine, beside what nothing on it could pass.

Absolute times differ between machines; a figure is worth what stands beside it in the same run.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from stream_app.logging_setup import set_up_logging
from tests.benchmarks import (
    backlog,
    everything,
    gateway,
    latency,
    limits,
    pipeline,
    report,
    restore,
    scoring,
    sizing,
    stream_statistics,
    two_stages,
)
from tests.benchmarks.bed import Bed
from tests.benchmarks.figures import Figure
from tests.benchmarks.limits import Limits

Part = Callable[[Bed, Limits], Iterator[Figure]]


def scoring_figures(bed: Bed, _: Limits) -> Iterator[Figure]:
    yield from pipeline.figures(bed)
    if bed.short:
        yield from scoring.scoring_figures(bed.catalogues, seconds=0.02)
    else:
        yield from scoring.scoring_figures()


def restore_figures(bed: Bed, _: Limits) -> Iterator[Figure]:
    yield from restore.figures(bed)


PARTS: Final[dict[str, Part]] = {
    "limits": limits.figures,
    "backlog": backlog.figures,
    "latency": latency.figures,
    "gateway": gateway.figures,
    "restore": restore_figures,
    "scoring": scoring_figures,
    "two-stages": two_stages.figures,
    "everything": everything.figures,
}
SIZING: Final = "sizing"
MORE: Final[dict[str, Part]] = {"statistics": stream_statistics.figures}
"""Parts that run where they are asked for only: minutes that say nothing of a worker."""


@click.command()
@click.option(
    "--only",
    default=",".join(PARTS),
    show_default=True,
    help=f"Parts; also {', '.join(MORE)}, {SIZING}.",
)
@click.option("--short", is_flag=True, help="A look at whether it runs; its figures say nothing.")
@click.option("--out", type=click.Path(path_type=Path), default="build/bench.json")
@click.option("--sizing-out", type=click.Path(path_type=Path), default="build/sizing.json")
def main(only: str, short: bool, out: Path, sizing_out: Path) -> None:
    """Measure, print a table, write it as JSON."""
    names = only.split(",")
    unknown = sorted(set(names) - PARTS.keys() - MORE.keys() - {SIZING})
    if unknown:
        raise click.UsageError(
            f"no such part: {', '.join(unknown)}; there are {', '.join((*PARTS, *MORE))}, {SIZING}"
        )
    set_up_logging("warning", process="bench")
    with (
        tempfile.TemporaryDirectory(prefix="nextclick-bench-") as directory,
        Bed(Path(directory), short=short) as bed,
    ):
        measured_on = report.context(bed)
        click.echo(f"{measured_on}\n\n{report.HEADER}")
        known = Limits(bed)
        figures: list[Figure] = []
        for name in names:
            if name != SIZING:
                for figure in (PARTS | MORE)[name](bed, known):
                    click.echo(report.line(figure))
                    figures.append(figure)
                report.write(out, figures, measured_on)
        if figures:
            click.echo(f"\nwritten to {out}")
        if SIZING in names:
            table = sizing.measure(bed, known)
            click.echo("\n".join(sizing.markdown(table)))
            sizing.write(sizing_out, table, measured_on)
            click.echo(f"\nwritten to {sizing_out}")


if __name__ == "__main__":
    main()
