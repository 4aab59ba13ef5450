# ruff: noqa: E402 - torch is looked for first
"""Two processes that train one network, as torchrun starts them."""

import json
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models.checkpoint import load_checkpoint
from models.together import Together
from stream_app.evaluation.sessions import SessionTable


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions walk around a circle of 60 items; an odd number, so that the processes' shares differ."""
    rng = np.random.default_rng(0)
    rows = []
    for session in range(601):
        length, start = int(rng.integers(2, 8)), int(rng.integers(60))
        split = "train" if session < 501 else "test"
        rows += [(session, (start + i) % 60, i, split) for i in range(length)]
    names = ("session_id", "item_id", "position", "split")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    path = tmp_path_factory.mktemp("data") / "sequences.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("model", ["gru4rec", "cosine-gru"])
def test_two_processes_learn_what_one_learns(sequences: Path, tmp_path: Path, model: str) -> None:
    flags = [
        "--data", str(sequences), "--model", model, "--units", "16", "--epochs", "20",
        "--n-sample", "32", "--learning-rate", "0.05",
    ]  # fmt: skip
    flags += ["--batch-size", "16"] if model == "gru4rec" else ["--batch-clicks", "120"]
    commands = {
        "one": [sys.executable, "-m", "models"],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "models"],
    }  # fmt: skip
    recall = {}
    for name, command in commands.items():
        out = tmp_path / name
        report = tmp_path / f"{name}.json"
        done = run(
            [*command, *flags, "--out", str(out), "--report", str(report)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Recall@20") == 1, "only the first process talks"
        record = load_checkpoint(out).record
        assert record.epochs_done == 20

        recall[name] = json.loads(report.read_text())["models"][0]["mrr_20"]
    assert recall["one"] > 0.8
    assert recall["two"] > recall["one"] - 0.1


def test_shares_are_disjoint_and_complete() -> None:
    starts = np.arange(0, 22, 2)
    sessions = SessionTable(np.arange(20), starts, np.zeros(20, dtype=np.int64))
    parts = [Together(rank, 3).share(sessions) for rank in range(3)]
    assert sorted(np.concatenate([part.item_indexes for part in parts]).tolist()) == list(range(20))
    assert [part.n_sessions for part in parts] == [4, 3, 3]
