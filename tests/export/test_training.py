"""From a click file to a bundle, as `nextclick train` and `nextclick export` do it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the training environment")
pytestmark = pytest.mark.torch

from export.artifact import checkpoint_of, without_items  # noqa: E402 - only where torch is
from export.cli import export, train  # noqa: E402
from models.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from models.config import GRU4RecConfig  # noqa: E402
from models.gru4rec import GRU4Rec  # noqa: E402
from models.train import starting_network  # noqa: E402
from stream_app.adapters.onnx_scorer import OnnxScorer  # noqa: E402
from stream_app.core.errors import BundleError  # noqa: E402
from stream_app.core.vocabulary import ItemVocabulary  # noqa: E402
from stream_app.files.bundle import open_bundle  # noqa: E402
from tests.bundles import make_bundle  # noqa: E402


def run(command: object, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)  # type: ignore[arg-type]
    return result.output


@pytest.fixture(scope="module")
def click_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions round a ring of 40 items."""
    rng = np.random.default_rng(2)
    path = tmp_path_factory.mktemp("clicks") / "clicks.csv"
    lines = ["session_id,item_id,event_time"]
    for session in range(400):
        item = int(40 * rng.random() ** 2)
        for position in range(4):
            moment = 1_800_000_000_000 + session * 10_000 + position * 1_000
            lines.append(f"s{session},sku-{(item + position) % 40},{moment}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def trained(click_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    report = out.parent / "report.json"
    run(
        train,
        *("--data", str(click_file), "--out", str(out), "--report", str(report)),
        *("--units", "16", "--epochs", "4", "--n-sample", "32", "--batch-size", "16"),
    )
    assert {m["name"] for m in json.loads(report.read_text())["models"]} >= {
        "gru4rec",
        "popularity",
    }
    return out


def test_train_leaves_a_bundle_and_the_checkpoint_in_it(trained: Path) -> None:
    scorer = OnnxScorer.load(trained)
    metrics = scorer.manifest.metrics
    assert metrics["candidate"]["recall_20"] > metrics["popularity"]["recall_20"]
    assert scorer.manifest.training["first_event_ms"] == 1_800_000_000_000
    checkpoint = load_checkpoint(trained / "checkpoint")
    assert checkpoint.vocabulary.ids == scorer.vocabulary.ids


def test_the_bundle_tells_popularity_and_similar_items(trained: Path) -> None:
    bundle = open_bundle(trained)
    assert bundle.popularity.sum() == pytest.approx(1.0)
    assert bundle.item2vec.shape == (40, 64)


def test_train_again_replaces_both(trained: Path, click_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    flags = ("--data", str(click_file), "--out", str(out), "--units", "8", "--n-sample", "16")
    run(train, *flags, "--epochs", "1")
    before = open_bundle(out).manifest.model_version
    run(train, *flags, "--epochs", "2")
    assert open_bundle(out).manifest.model_version != before


def test_train_leaves_a_directory_of_other_things_alone(click_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match=r"thesis\.tex"):
        run(train, "--data", str(click_file), "--out", str(tmp_path))


def test_export_makes_the_same_model_anew(trained: Path, tmp_path: Path) -> None:
    for number, source in enumerate((trained, trained / "checkpoint")):
        out = tmp_path / f"bundle-{number}"
        run(export, "--checkpoint", str(source), "--out", str(out))
        again, first = open_bundle(out), open_bundle(trained)
        assert (again.step, again.score) == (first.step, first.score)
        assert np.array_equal(again.popularity, first.popularity)


def test_a_second_stage_is_learned_from_a_file_and_exported_again(tmp_path: Path) -> None:
    """Sessions of a benchmark file, which has no clock, round a ring of 30 items."""
    rng = np.random.default_rng(3)
    rows = [
        (session, int(item + step) % 30, step, "train" if session < 1_450 else "test")
        for session, item in enumerate(rng.integers(30, size=1_500))
        for step in range(4)
    ]
    session, item, position, split = zip(*rows, strict=True)
    columns = {"session_id": session, "item_id": item, "position": position, "split": split}
    pq.write_table(pa.table(columns), tmp_path / "sequences.parquet")
    out = tmp_path / "model"
    told = run(
        train,
        *("--data", str(tmp_path / "sequences.parquet"), "--out", str(out), "--second-stage"),
        *("--model", "cosine-gru", "--units", "8", "--epochs", "1"),
    )
    assert "second stage, on the newest training sessions" in told
    bundle = open_bundle(out)
    assert bundle.past is not None
    assert bundle.past.n_sessions == 1_450
    report = bundle.manifest.metrics["second_stage"]
    assert report["lists"] > 250
    assert report["two_stages"]["mrr_20"] > 0.9, "what follows is always the same"
    assert OnnxScorer.load(out).ranker is not None
    run(export, "--checkpoint", str(out), "--out", str(tmp_path / "again"))
    again = open_bundle(tmp_path / "again")
    assert again.manifest.second_stage == bundle.manifest.second_stage
    assert again.ranker == bundle.ranker


def test_export_says_what_a_checkpoint_alone_lacks(trained: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (trained / "checkpoint").iterdir():
        (alone / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BundleError, match="nextclick train --data FILE --out DIR"):
        run(export, "--checkpoint", str(alone), "--out", str(tmp_path / "out"))


def test_training_can_go_on_from_a_bundle(trained: Path) -> None:
    inside, beside = checkpoint_of(trained), load_checkpoint(trained / "checkpoint")
    assert inside.config == beside.config
    for ours, theirs in ((inside.weights, beside.weights), (inside.optimiser, beside.optimiser)):
        assert sorted(ours) == sorted(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_does_not_go_on_from_another_architecture(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"gru4rec"', '"decayed-mean"'))
    with pytest.raises(BundleError, match="decayed-mean"):
        checkpoint_of(directory)


def test_retired_items_leave_every_table_and_no_other_weight() -> None:
    """30 items and 3 x 10 gates: a matrix of as many rows as there are items is no item table."""
    model = GRU4Rec(GRU4RecConfig(units=10), 30)
    model.initialise(torch.Generator().manual_seed(0))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    start = Checkpoint(
        config=model.config,
        vocabulary=ItemVocabulary(f"i{n}" for n in range(30)),
        weights=weights,
        optimiser={f"accumulator.{name}": weight for name, weight in weights.items()},
    )
    pruned = without_items(start, {"i0", "i7"})
    assert pruned.vocabulary.ids[:7] == ("i1", "i2", "i3", "i4", "i5", "i6", "i8")
    kept = [n for n in range(30) if n not in {0, 7}]
    for tensors, prefix in ((pruned.weights, ""), (pruned.optimiser, "accumulator.")):
        assert torch.equal(tensors[f"{prefix}item_vectors"], weights["item_vectors"][kept])
        assert torch.equal(tensors[f"{prefix}hidden_weight_0"], weights["hidden_weight_0"])
    pruned.model()


def test_training_goes_on_where_items_and_gates_are_equally_many() -> None:
    """The vocabulary grows from 29 to 30 items; 3 x 10 gates have 30 rows and do not grow."""
    model = GRU4Rec(GRU4RecConfig(units=10), 29)
    model.initialise(torch.Generator().manual_seed(0))
    start = Checkpoint(
        config=model.config,
        vocabulary=ItemVocabulary(f"i{n}" for n in range(29)),
        weights={name: weight.detach() for name, weight in model.named_parameters()},
    )
    grown = starting_network(model.config, start.vocabulary.extended(["i29"]), start)
    assert torch.equal(grown.item_vectors[:29], model.item_vectors)
    assert torch.equal(grown.hidden_weight_0, model.hidden_weight_0)
