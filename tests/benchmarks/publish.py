"""`python -m tests.benchmarks.publish`: README's benchmark and sizing tables, from what the last runs wrote."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks import report, sizing
from tests.benchmarks.figures import Figure
from tests.benchmarks.report import number

ROOT: Final = Path(__file__).parents[2]
BENCH, SIZING = ROOT / "build" / "bench.json", ROOT / "build" / "sizing.json"


def bench_table(figures: list[Figure], measured_on: str) -> Iterator[str]:
    """A row per figure, in the order of the run."""
    yield f"`make bench`: {measured_on}."
    yield ""
    yield "| measure | median (least to most of repeated runs) | limit, same run | to reach |"
    yield "|---|---|---|---|"
    for figure in figures:
        spread = figure.spread
        shown = f"{number(figure.value)} {figure.unit}"
        if spread:
            shown += f" ({number(spread[0])} to {number(spread[1])})"
        limit = number(figure.limit) if figure.limit is not None else ""
        goal = number(figure.goal) if figure.goal is not None else ""
        missed = ", missed" if figure.is_met is False else ""
        yield f"| {figure.name} | {shown} | {limit} | {goal}{missed} |"


def with_block(text: str, name: str, made: Iterator[str]) -> str:
    """The text with what stands between the block's two marks replaced."""
    begin = f"<!-- {name}: written by `python -m tests.benchmarks.publish` -->"
    end = f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"README.md has no block `{name}`: put {begin} and {end} where it belongs")
    return f"{before}{begin}\n\n" + "\n".join(made) + f"\n\n{end}{after}"


def main() -> None:
    """Of the two files, those that are there."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    if BENCH.exists():
        text = with_block(text, "bench", bench_table(*report.read(BENCH)))
    if SIZING.exists():
        table, measured_on = sizing.read(SIZING)
        head = f"`python -m tests.benchmarks --only sizing`: {measured_on}."
        text = with_block(text, "sizing", iter([head, "", *sizing.markdown(table)]))
    readme.write_text(text)


if __name__ == "__main__":
    main()
