"""From a file to a checkpoint and figures, as `nextclick train` does it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

pytest.importorskip("torch", reason="needs the training environment")

from models.checkpoint import load_checkpoint
from models.config import GRU4RecConfig
from models.evaluate import evaluate_checkpoint
from models.options import TrainingOptions
from models.progress import TrainingProgress
from models.progress_view import describe, show_progress
from models.training_run import load_training_data, run_training
from stream_app.core.errors import ClickFileError

CONFIG = GRU4RecConfig(units=8, batch_size=8, n_sample=16, epochs=2, seed=1)
HOUR = 3_600_000
START = 1_700_000_000_000


def clicks_of_a_ring(n_sessions: int = 120, *, event_type: str = "view_item") -> pa.Table:
    """Visitors walk around a ring of 12 items, one visitor per hour; the newest find a new item."""
    rng = np.random.default_rng(0)
    rows = []
    for s in range(n_sessions):
        first = int(rng.integers(0, 12))
        for step in range(5):
            item = "new" if s == n_sessions - 1 and step == 2 else f"i{(first + step) % 12}"
            rows.append((f"s{s}", item, START + s * HOUR + step * 1000, event_type))
    session, item, time, kind = zip(*rows, strict=True)
    return pa.table(
        {"session_id": session, "item_id": item, "event_time_ms": time, "event_type": kind}
    )


def sequences_of_a_ring() -> pa.Table:
    rows = [
        (s, (s + step) % 12, step, "train" if s < 100 else "test")
        for s in range(120)
        for step in range(5)
    ]
    session, item, position, split = zip(*rows, strict=True)
    return pa.table({"session_id": session, "item_id": item, "position": position, "split": split})


def options(tmp_path: Path, table: pa.Table, **fields: object) -> TrainingOptions:
    pq.write_table(table, tmp_path / "data.parquet")
    given: dict[str, object] = {
        "data": tmp_path / "data.parquet",
        "checkpoint_directory": tmp_path / "model",
        "config": CONFIG,
        **fields,
    }
    return TrainingOptions(**given)  # type: ignore[arg-type]


def test_a_click_file_is_divided_in_time_and_the_report_tells_all(tmp_path: Path) -> None:
    report = tmp_path / "reports" / "r.json"
    outcome = run_training(
        options(tmp_path, clicks_of_a_ring(), report=report, test_share=0.25), Console(quiet=True)
    )
    written = json.loads(report.read_text())
    assert written["data"] == str(tmp_path / "data.parquet")
    assert written["targets"] == 30 * 4
    names = [model["name"] for model in written["models"]]
    assert names == ["gru4rec", "item-knn", "popularity"]
    assert all({"recall_20", "mrr_20", "cold_targets"} <= set(m) for m in written["models"])
    assert written["models"][0]["cold_targets"] == 1, "the new item came after the cut"
    assert written["events_per_second"] > 0
    assert outcome.data.train.n_sessions == 90
    assert "new" not in outcome.checkpoint.vocabulary
    # What is printed is what the saved checkpoint reaches.
    saved = load_checkpoint(tmp_path / "model")
    assert evaluate_checkpoint(saved, outcome.data.test) == outcome.quality["gru4rec"]
    assert not (tmp_path / "model.unfinished").exists()


def test_days_can_be_held_out_instead(tmp_path: Path) -> None:
    data = load_training_data(options(tmp_path, clicks_of_a_ring(), holdout_days=1))
    assert data.test.n_sessions == 24
    assert data.train.n_sessions == 96
    assert int(data.train.click_ms.max()) < int(data.test.start_ms.min())


def test_benchmark_sequences_bring_their_own_split(tmp_path: Path) -> None:
    data = load_training_data(options(tmp_path, sequences_of_a_ring()))
    assert (data.train.n_sessions, data.test.n_sessions) == (100, 20)
    assert len(data.vocabulary) == 12
    assert not data.has_clock


def test_other_events_are_no_clicks_and_that_is_said(tmp_path: Path) -> None:
    bought = clicks_of_a_ring(event_type="purchase")
    with pytest.raises(ClickFileError, match=r"but purchase.*--event-type"):
        load_training_data(options(tmp_path, bought))
    data = load_training_data(options(tmp_path, bought, event_types=("purchase",)))
    assert data.train.n_sessions > 0


def test_a_file_of_single_clicks_is_refused_with_a_hint(tmp_path: Path) -> None:
    one_each = clicks_of_a_ring().filter(pa.array([i % 5 == 0 for i in range(600)]))
    with pytest.raises(ClickFileError, match="which column is the session"):
        load_training_data(options(tmp_path, one_each))


def test_progress_in_a_log_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    now = TrainingProgress(
        epoch=2, epochs=5, events_done=300, events_total=1000, loss=4.125,
        events_per_second=7310.4, seconds_left=3672.0, epoch_finished=True,
    )  # fmt: skip
    assert describe(now) == "epoch 2/5, loss 4.125, 7,310 events/s, 1:01:12 left"
    with show_progress(Console(stderr=True, force_terminal=False)) as progress:
        progress(now)
    assert "training  30 %: epoch 2/5" in capsys.readouterr().err
    with show_progress(Console(stderr=True, force_terminal=True)) as progress:
        progress(now)
