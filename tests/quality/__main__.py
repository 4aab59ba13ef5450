"""`make quality`: tuned baselines and trained models on every public log that is there.

Figures of recommendations, none of speed: seconds are told so that a reader can plan.
"""

import os
from pathlib import Path
from typing import Any, Final

import click

from stream_app.tools.reports import write_report
from tests.quality import training
from tests.quality.blend import tuned_weight
from tests.quality.data_sets import DATA_SETS, DataSet
from tests.quality.rows import markdown

DATA: Final = Path("../shared/data")
BASELINES: Final = ", ".join(f"{data_set.name} {data_set.minutes} min" for data_set in DATA_SETS)


@click.command(
    epilog=f"Baselines, tuning included: {BASELINES}.  Trainings: {training.costs()}.  All on one core "
    "that does nothing else; by default about half an hour together.  A bundle that an earlier run left in "
    "build/quality is not trained again: remove it to have it anew."
)
@click.option("--sets", default=",".join(s.name for s in DATA_SETS), show_default=True)
@click.option(
    "--train",
    "trained",
    default="default",
    show_default=True,
    help="default, all, none, or SET:MODEL,...: what is trained first.",
)
@click.option("--seeds", default=1, show_default=True, help="Trainings of each, seeds 0, 1, ...")
@click.option(
    "--bundle",
    "given",
    multiple=True,
    metavar="SET=DIRECTORY",
    help="A bundle to judge beside those.",
)
@click.option(
    "--tune-blend",
    is_flag=True,
    help="Choose the blend's weight by another training of the set's first model, the end of train held out.",
)
@click.option("--data", type=click.Path(path_type=Path), default=DATA, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default="build/quality", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="build/quality.json")
def main(
    sets: str,
    trained: str,
    seeds: int,
    given: tuple[str, ...],
    tune_blend: bool,
    data: Path,
    work: Path,
    out: Path,
) -> None:
    """Judge, print markdown for models/EXPERIMENTS.md, write everything as JSON."""
    known = {data_set.name: data_set for data_set in DATA_SETS}
    names = sets.split(",")
    if unknown := sorted(set(names) - known.keys()):
        raise click.UsageError(f"no such set: {', '.join(unknown)}; there are {', '.join(known)}")
    try:
        trainings = training.chosen(trained)
    except ValueError as error:
        raise click.UsageError(f"--train: {error}") from error
    bundles_given = _given(given, known)
    reports: dict[str, Any] = {}
    for name in names:
        data_set = known[name]
        if not data_set.is_there(data):
            click.echo(f"{name}: SKIPPED, {data / name} is absent", err=True)
            continue
        own = [t for t in trainings if t.data_set == name]
        bundles = [*bundles_given.get(name, ()), *_trained(own, data_set, data, work, seeds)]
        weights, chosen_from = (0.5,), {}
        if tune_blend and own and data_set.training_file == "sequences.parquet":
            weight, rows = tuned_weight(
                own[0], data / name / "sequences.parquet", work / name, _say
            )
            weights, chosen_from = (weight,), {"blend_chosen_from": rows}
        report = data_set.evaluate(data / name, bundles, weights, _say)
        reports[name] = {**report, **chosen_from}
        click.echo("\n".join(markdown(name, report)))
        write_report(out, {"load_average": os.getloadavg()[0], "sets": reports})
    if not reports:
        raise click.ClickException(f"none of the data sets is under {data}: nothing was judged")
    click.echo(f"written to {out}")


def _trained(
    trainings: list[training.Training], data_set: DataSet, data: Path, work: Path, seeds: int
) -> list[Path]:
    bundles = []
    for one in trainings:
        for seed in range(seeds):
            out = work / data_set.name / f"{one.model}-{seed}"
            _say(f"{one.name}, seed {seed}: training, about {one.minutes} min, into {out}")
            file = data / data_set.name / data_set.training_file
            bundles.append(training.train(one, file, out, seed=seed))
    return bundles


def _given(pairs: tuple[str, ...], known: dict[str, DataSet]) -> dict[str, list[Path]]:
    bundles: dict[str, list[Path]] = {}
    for pair in pairs:
        name, equals, directory = pair.partition("=")
        if not equals or name not in known:
            raise click.UsageError(
                f"--bundle {pair}: write SET=DIRECTORY, SET one of {', '.join(known)}"
            )
        bundles.setdefault(name, []).append(Path(directory))
    return bundles


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
