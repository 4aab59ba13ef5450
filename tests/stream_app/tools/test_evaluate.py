"""`nextclick evaluate` on files: every ranker, one table, one report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from stream_app.cli.evaluate import evaluate as command
from stream_app.settings import load_settings, statistics_recipe
from tests.bundles import make_bundle
from tests.stream_app.evaluation.tables import random_sessions

N_ITEMS = 40


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sequences.parquet, pairs.parquet (of its test sessions), clicks.parquet, and two bundles."""
    directory = tmp_path_factory.mktemp("files")
    sessions = random_sessions(0, 300, n_items=N_ITEMS)
    rows = [
        (number, item, position, "test" if number >= 250 else "train")
        for number, session in enumerate(sessions)
        for position, item in enumerate(session)
    ]
    number, item, position, split = zip(*rows, strict=True)
    sequences = {"session_id": number, "item_id": item, "position": position, "split": split}
    pq.write_table(pa.table(sequences), directory / "sequences.parquet")
    pairs = [(s[:n], s[n]) for s in sessions[250:] for n in range(len(s) - 1, 0, -1)]
    prefix, label = zip(*pairs, strict=True)
    pq.write_table(pa.table({"prefix": prefix, "label": label}), directory / "pairs.parquet")
    clicks = {
        "session_id": [str(n) for n in number],
        "item_id": [str(i) for i in item],
        "event_time_ms": [1_700_000_000_000 + 60_000 * n for n in number],
    }
    pq.write_table(pa.table(clicks), directory / "clicks.parquet")
    for seed in range(2):
        ids = [str(i) for i in np.random.default_rng(seed).permutation(N_ITEMS)]
        make_bundle(directory, N_ITEMS, seed=seed, ids=ids, version=f"seed-{seed}")
        make_bundle(directory, N_ITEMS, seed=seed, ids=ids, version=f"two-{seed}", ranked=True)
    return directory


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)


def report_of(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    path = tmp_path / "report.json"
    result = evaluate(*arguments, "--report", path)
    assert result.exit_code == 0, result.output
    return dict(json.loads(path.read_text()))


def test_pairs_and_positions_of_the_same_sessions_give_the_same_figures(
    files: Path, tmp_path: Path
) -> None:
    data = ("--data", files / "sequences.parquet", "--bundle", files / "seed-0")
    rows = report_of(tmp_path, *data)
    pairs = report_of(tmp_path, *data, "--pairs", files / "pairs.parquet")
    names = [model["name"] for model in rows["models"]]
    assert names == [
        "popularity",
        "item-knn",
        "item2vec",
        "session-knn",
        "gru4rec",
        "gru4rec + session-knn (0.5)",
    ]
    assert rows["skipped"] == {
        "recent-popularity": "the file has no clock",
        "gru4rec, two stages": "the bundle has no second stage",
    }
    assert set(rows["parameters"]) == {"item-knn", "item2vec", "session-knn"}
    for a, b in zip(rows["models"], pairs["models"], strict=True):
        for figure in ("recall_5", "recall_20", "mrr_20", "ndcg_20", "coverage_20", "targets"):
            assert a[figure] == pytest.approx(b[figure]), (a["name"], figure)
    assert all(m["targets"] == rows["targets"] > 100 for m in rows["models"])
    assert len({m["mrr_20"] for m in rows["models"]}) == len(names), "each ranks in its own way"


def test_several_bundles_of_one_architecture_give_mean_and_deviation(
    files: Path, tmp_path: Path
) -> None:
    report = report_of(
        tmp_path,
        *("--data", files / "sequences.parquet", "--rankers", "bundle"),
        *("--bundle", files / "seed-0", "--bundle", files / "seed-1"),
    )
    first, second = (model["recall_20"] for model in report["models"])
    assert [m["name"] for m in report["models"]] == ["gru4rec (seed-0)", "gru4rec (seed-1)"]
    (seeds,) = report["over_seeds"]
    assert seeds["bundles"] == 2
    assert seeds["recall_20_mean"] == pytest.approx((first + second) / 2)
    assert seeds["recall_20_sd"] == pytest.approx(abs(first - second) / np.sqrt(2))


@pytest.mark.parametrize("data", ["sequences", "clicks"])
def test_a_second_stage_is_judged_beside_its_model(files: Path, tmp_path: Path, data: str) -> None:
    report = report_of(
        tmp_path,
        *("--data", files / f"{data}.parquet", "--rankers", "bundle,two-stages"),
        *("--bundle", files / "two-0", "--bundle", files / "two-1"),
    )
    names = ["gru4rec (two-0)", "gru4rec (two-1)"]
    assert [m["name"] for m in report["models"]] == [
        name + stages for name in names for stages in ("", ", two stages")
    ]
    assert {seeds["name"] for seeds in report["over_seeds"]} == {"gru4rec", "gru4rec, two stages"}
    assert len({m["mrr_20"] for m in report["models"]}) == 4
    assert all(m["targets"] == report["targets"] for m in report["models"])


def test_a_second_stage_over_other_statistics_is_left_out(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTCLICK_STATISTICS__FOLLOW_UP_HALF_LIFE_MINUTES", "3")
    report = report_of(
        tmp_path,
        *("--data", files / "clicks.parquet", "--rankers", "bundle,two-stages"),
        *("--bundle", files / "two-0"),
    )
    assert [m["name"] for m in report["models"]] == ["gru4rec"]
    assert "counted otherwise" in report["skipped"]["gru4rec, two stages"]


def test_a_click_log_has_a_clock_and_so_recent_popularity(files: Path, tmp_path: Path) -> None:
    rankers = "popularity,recent-popularity"
    report = report_of(tmp_path, "--data", files / "clicks.parquet", "--rankers", rankers)
    assert [m["name"] for m in report["models"]] == ["popularity", "recent-popularity"]
    assert report["parameters"]["recent-popularity"]["half_life_minutes"] > 0


def test_a_click_log_is_cut_where_train_cuts_it(tmp_path: Path) -> None:
    """The newest half of the sessions that have a next click; sessions of one click do not move the cut."""
    lengths = [2, 3, 1, 1, 1, 1, 1, 4, 2]
    rows = [(str(s), str(i), s, i) for s, n in enumerate(lengths) for i in range(n)]
    clicks = {
        "session_id": [session for session, _, _, _ in rows],
        "item_id": [item for _, item, _, _ in rows],
        "event_time_ms": [1_700_000_000_000 + 60_000 * s + i for _, _, s, i in rows],
    }
    pq.write_table(pa.table(clicks), tmp_path / "clicks.parquet")
    data = ("--data", tmp_path / "clicks.parquet", "--test-share", 0.5)
    report = report_of(tmp_path, *data, "--rankers", "popularity")
    assert report["targets"] == 3 + 1
    assert report["models"][0]["cold_targets"] == 1, "item 3 is in the last but one session alone"


def test_a_click_log_as_a_stream_goes_through_the_bundle_as_a_worker_would(
    files: Path, tmp_path: Path
) -> None:
    report = report_of(
        tmp_path,
        *("--data", files / "clicks.parquet", "--protocol", "prequential"),
        *("--from", "2023-11-15", "--bundle", files / "seed-0", "--half-life-minutes", 30),
    )
    names = [model["name"] for model in report["models"]]
    assert names == ["recent-popularity 30 min", "co-occurrence", "gru4rec"]
    assert report["from_ms"] >= 1_700_006_400_000
    for model in report["models"]:
        assert model["targets"] == report["targets"] == sum(a["targets"] for a in model["by_age"])
        assert 0 < model["recall_20"] < 1


def test_tuning_prints_lines_for_the_settings_file(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result = evaluate("--tune", "--data", files / "clicks.parquet", "--report", path)
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    lines = tmp_path / "nextclick.toml"
    lines.write_text(result.stdout[result.stdout.index("[statistics]") :])
    recipe = statistics_recipe(load_settings({}, environment={}, file=lines))
    best = report["pairs"][0]
    assert list(recipe.pair_half_lives_minutes) == best["half_lives_minutes"]
    assert list(recipe.pair_weights) == best["weights"]
    assert recipe.prior_clicks == best["prior_clicks"] == report["settings"]["prior_clicks"]
    assert recipe.half_life_minutes == report["popularity"][0]["half_life_minutes"]
    assert best["recall_20"] + best["mrr_20"] >= max(
        choice["recall_20"] + choice["mrr_20"] for choice in report["pairs"]
    )
    assert report["present"]["half_lives_minutes"] == [20, 43_200]
    assert f"{report['targets']:,} next clicks of" in result.stdout
    assert "20 min + 30 d" in result.stdout


def test_what_is_printed_names_what_was_left_out(files: Path) -> None:
    result = evaluate("--data", files / "sequences.parquet", "--rankers", "popularity,bundle")
    assert "next clicks of" in result.output
    assert "bundle: left out, no --bundle was given" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stream", "--data", "x"], "either --stream"),
        (["--bundle", "x"], "--data is missing"),
        (["--data", "clicks.parquet", "--pairs", "pairs.parquet"], "benchmark sequences"),
        (["--data", "sequences.parquet", "--rankers", "best"], "no such ranker: best"),
        (["--data", "clicks.parquet", "--from", "2023-11-14"], "go with --protocol prequential"),
        (["--data", "sequences.parquet", "--protocol", "prequential"], "has no clock"),
        (["--data", "sequences.parquet", "--tune"], "has no clock"),
        (["--data", "clicks.parquet", "--tune", "--bundle", "x"], "--tune goes with --data alone"),
        (["--stream", "--tune"], "--tune goes with --data alone"),
        (["--tune"], "either --stream"),
        (["--data", "clicks.parquet", "--tune", "--from", "2033-11-14"], "nothing to tune on"),
        (["--data", "sequences.parquet", "--rankers", "blend"], "no --bundle was given"),
    ],
)
def test_contradictions_are_refused(files: Path, arguments: list[str], says: str) -> None:
    named = [str(files / a) if a.endswith(".parquet") else a for a in arguments]
    result = CliRunner().invoke(command, named)
    assert result.exit_code != 0
    assert says in result.output + str(result.exception)
