"""`make quality` on a made-up log: what is there is judged, what is not is said."""

import json
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from models.options import TrainingOptions, training_options
from tests.bundles import make_bundle
from tests.quality import blend, training
from tests.quality.__main__ import main
from tests.quality.rows import markdown
from tests.stream_app.evaluation.tables import random_sessions

N_ITEMS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the sets, in small; and a bundle beside it."""
    directory = tmp_path_factory.mktemp("data")
    sessions = [s for s in random_sessions(1, 260, n_items=N_ITEMS) if len(s) > 1]
    rows = [
        (number, item, position, "test" if number >= len(sessions) - 20 else "train")
        for number, session in enumerate(sessions)
        for position, item in enumerate(session)
    ]
    session, item, position, split = zip(*rows, strict=True)
    target = directory / "yoochoose1_64_seq"
    target.mkdir()
    table = {"session_id": session, "item_id": item, "position": position, "split": split}
    pq.write_table(pa.table(table), target / "sequences.parquet")
    pairs = [(s[:n], s[n]) for s in sessions[-20:] for n in range(len(s) - 1, 0, -1)]
    prefix, label = zip(*pairs, strict=True)
    pq.write_table(pa.table({"prefix": prefix, "label": label}), target / "test_pairs.parquet")
    ids = [str(n) for n in range(N_ITEMS)]
    make_bundle(directory, N_ITEMS, ids=ids, version="made-up")
    return directory


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_sets_that_are_there_are_judged_and_the_others_named(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "quality.json"
    given = f"yoochoose1_64_seq={data / 'made-up'}"
    result = run("--data", data, "--train", "none", "--bundle", given, "--out", out)
    assert result.exit_code == 0, result.output
    for absent in ("yoochoose_apr2014", "diginetica_seq", "globo"):
        assert f"{absent}: SKIPPED" in result.output
    report: dict[str, Any] = json.loads(out.read_text())["sets"]
    assert list(report) == ["yoochoose1_64_seq"]
    names = [row["name"] for row in report["yoochoose1_64_seq"]["models"]]
    assert names[-2:] == ["gru4rec", "gru4rec + session-knn (0.5)"]
    for name in names:
        assert f"| {name} |" in result.output


def test_nothing_there_is_a_failure(tmp_path: Path) -> None:
    result = run("--data", tmp_path, "--train", "none", "--out", tmp_path / "quality.json")
    assert result.exit_code == 1
    assert "nothing was judged" in result.output


@pytest.mark.parametrize(
    "arguments",
    [("--sets", "x"), ("--train", "globo:bert"), ("--bundle", "nowhere"), ("--bundle", "x=y")],
)
def test_what_is_not_configured_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("one", training.TRAININGS, ids=lambda t: t.name)
def test_the_flags_are_those_of_nextclick_train(one: training.Training, tmp_path: Path) -> None:
    taken: list[TrainingOptions] = []

    def take(options: TrainingOptions) -> None:
        taken.append(options)

    command = click.command()(training_options(take))
    flags = training.command_of(one, tmp_path / "data", tmp_path / "out", seed=3)[2:]
    command.main(flags, standalone_mode=False)
    assert taken[0].config.seed == 3
    assert str(taken[0].config.epochs) == one.flags[one.flags.index("--epochs") + 1]


def test_trainings_are_chosen_by_set_or_by_name() -> None:
    of_set = [t.name for t in training.chosen("diginetica_seq")]
    assert of_set == ["diginetica_seq:gru4rec", "diginetica_seq:cosine-gru"]
    assert training.chosen("yoochoose1_64_seq:gru4rec")[0].flags[0] == "--preset"
    assert {t.name for t in training.chosen("default")} < {t.name for t in training.chosen("all")}
    assert training.chosen("none") == []


def test_a_bundle_that_is_there_is_not_trained_again(data: Path) -> None:
    one = training.TRAININGS[0]
    assert training.train(one, data / "absent", data / "made-up", seed=0) == data / "made-up"


def test_a_training_that_fails_says_why(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nextclick"
    program.write_text("#!/bin/sh\necho no torch here >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(training, "PROGRAM", program)
    with pytest.raises(training.TrainingFailedError, match="no torch here"):
        training.train(training.TRAININGS[0], data / "x", tmp_path / "out", seed=0)


def test_the_blends_weight_is_chosen_without_a_look_at_the_test(data: Path) -> None:
    sequences = pq.read_table(data / "yoochoose1_64_seq" / "sequences.parquet")
    part = blend.without_test(sequences, held_out=30).to_pylist()
    before = {row["session_id"] for row in sequences.to_pylist() if row["split"] == "train"}
    held_out = {row["session_id"] for row in part if row["split"] == "test"}
    assert {row["session_id"] for row in part} == before
    assert held_out == set(sorted(before)[-30:])


def test_rows_are_dated_and_complete() -> None:
    row = dict.fromkeys(
        [
            "recall_5",
            "recall_10",
            "recall_20",
            "recall_20_low",
            "recall_20_high",
            "mrr_20",
            "mrr_20_low",
            "mrr_20_high",
            "ndcg_20",
            "coverage_20",
            "popularity_bias",
            "warm_recall_20",
            "warm_mrr_20",
        ],
        0.25,
    )
    seeds = {
        "name": "gru",
        "bundles": 3,
        **{f"{f}_{w}": 0.5 for f in ("recall_20", "mrr_20") for w in ("mean", "sd")},
    }
    report = {
        "date": "2026-12-01",
        "protocol": "static",
        "targets": 1234,
        "models": [{**row, "name": "gru", "cold_targets": 7, "recall_20": 1.0}],
        "over_seeds": [seeds],
        "skipped": {"blend": "no bundle"},
    }
    text = "\n".join(markdown("logs", report))
    assert "## 2026-12-01: logs, static" in text
    assert "| 1,234, 7 cold | gru | .2500 | .2500 | 1.0000 (.2500-.2500) |" in text
    assert "gru, 3 seeds: R@20 .5000 ± .5000" in text
    assert "blend: left out, no bundle." in text
