"""`make chaos`: every fault of the table, on a real broker with real kills.  Writes build/chaos.json."""

import json
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from tests.chaos.lab import Lab
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.rows import all_rows

RESULTS = Path("build/chaos.json")


@click.command()
@click.option("--short", is_flag=True, help="The form that `make test` runs.")
@click.option("--rows", "names", default="", help="Only these, comma-separated.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), show_default=True)
def main(short: bool, names: str, seed: int, out: Path) -> None:
    """Break things on purpose and count what was lost.

    \b
    Example:
      python -m tests.chaos --short --rows kills,zombies
    """
    rows = picked(all_rows(), names)
    scale = Scale(short=short, seed=seed)
    found: list[tuple[Row, Finding]] = []
    click.echo(HEADER)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with (
        tempfile.TemporaryDirectory(prefix="nextclick-chaos-") as directory,
        Lab(Path(directory), seed=seed) as lab,
    ):
        for row in rows:
            for finding in run(row, lab, scale):
                found.append((row, finding))
                click.echo(line(row, finding))
                write(out, found)
    click.echo(f"{len(found)} findings in {time.monotonic() - began:.0f} s, written to {out}")
    sys.exit(0 if all(finding.is_good for _, finding in found) else 1)


def picked(rows: list[Row], names: str) -> list[Row]:
    if not names:
        return rows
    by_name = {row.name: row for row in rows}
    unknown = set(names.split(",")) - by_name.keys()
    if unknown:
        raise click.UsageError(f"no such row: {sorted(unknown)}; there are {sorted(by_name)}")
    return [by_name[name] for name in names.split(",")]


def run(row: Row, lab: Lab, scale: Scale) -> Iterator[Finding]:
    """The row's findings; where it breaks off, that is one too, and the others go on."""
    try:
        yield from row.run(lab, scale)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        traceback.print_exc()
        yield Finding(
            "broke off", runs=0, failures=1, note=f"{type(error).__name__}: {error}"[:500]
        )


HEADER = (
    f"{'row':<11} {'variant':<44} {'runs':>5} {'lost':>5} {'doubled':>7} {'repeated':>8} "
    f"{'differing':>9} {'failures':>8}  recovery s: median, longest"
)


def line(row: Row, finding: Finding) -> str:
    """One line of the table, and the note on lines of its own."""
    times = finding.recovery_seconds
    recovery = f"{statistics.median(times):.1f}, {max(times):.1f}" if times else "-"
    counts = (
        f"{row.name:<11} {finding.name:<44} {finding.runs:>5} {finding.lost:>5} "
        f"{finding.doubled:>7} {finding.repeated:>8} {finding.differing:>9} {finding.failures:>8}"
    )
    note = "".join(f"\n{'':<11}   {part}" for part in finding.note.split("; ") if part)
    return f"{counts}  {recovery}{note}"


def write(out: Path, found: Iterable[tuple[Row, Finding]]) -> None:
    """All figures so far: an interrupted run leaves what it found."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figures = [figure for row, finding in found for figure in figures_of(row, finding)]
    out.write_text(json.dumps(figures, indent=1) + "\n")


def figures_of(row: Row, finding: Finding) -> Iterator[dict[str, Any]]:
    """name, value, unit, and the limit where one must hold."""
    prefix = f"{row.name}: {finding.name}"
    yield {"name": f"{prefix}: runs", "value": finding.runs, "unit": "runs"}
    for name, unit in (
        ("lost", "clicks"),
        ("doubled", "sessions"),
        ("differing", "answers"),
        ("failures", "failures"),
    ):
        value = getattr(finding, name)
        yield {"name": f"{prefix}: {name}", "value": value, "unit": unit, "limit": 0}
    yield {"name": f"{prefix}: repeated", "value": finding.repeated, "unit": "answers"}
    if finding.recovery_seconds:
        times = finding.recovery_seconds
        for name, value in (("median", statistics.median(times)), ("longest", max(times))):
            yield {
                "name": f"{prefix}: recovery, {name}",
                "value": round(value, 3),
                "unit": "s",
            }
    for name, value, unit in finding.figures:
        yield {"name": f"{prefix}: {name}", "value": round(value, 3), "unit": unit}


if __name__ == "__main__":
    main()
