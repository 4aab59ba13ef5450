# ruff: noqa: E402 - torch is looked for first
"""A checkpoint is whole or not there."""

import shutil
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models import checkpoint as module
from models.checkpoint import Checkpoint, TrainingRecord, load_checkpoint, save_checkpoint
from models.config import GRU4RecConfig
from models.gru4rec import GRU4Rec
from stream_app.core.errors import BundleError
from stream_app.core.vocabulary import ItemVocabulary

CONFIG = GRU4RecConfig(units=4, layers=2, cell="rnn")


def checkpoint(seed: int = 1) -> Checkpoint:
    model = GRU4Rec(CONFIG, 3)
    model.initialise(torch.Generator().manual_seed(seed))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return Checkpoint(
        config=CONFIG,
        vocabulary=ItemVocabulary(["a", "ä/ö", "日本"]),
        weights=weights,
        optimiser={f"accumulator.{name}": weight**2 for name, weight in weights.items()},
        record=TrainingRecord(epochs_done=2, epoch_losses=(1.5, 1.25), events=7),
    )


def equal(one: dict[str, "torch.Tensor"], other: dict[str, "torch.Tensor"]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(saved, tmp_path / "deep" / "model")
    loaded = load_checkpoint(tmp_path / "deep" / "model")
    assert loaded.config == saved.config
    assert loaded.vocabulary.ids == saved.vocabulary.ids
    assert loaded.record == saved.record
    assert equal(loaded.weights, saved.weights)
    assert equal(loaded.optimiser, saved.optimiser)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_nothing_in_it_is_pickled(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / "model")
    kinds = {path.suffix for path in (tmp_path / "model").iterdir()}
    assert kinds == {".safetensors", ".json"}


@pytest.mark.parametrize("files_written", range(1, 6))
def test_a_kill_in_the_middle_of_writing_leaves_the_old_checkpoint(
    tmp_path: Path, files_written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = checkpoint(1), checkpoint(2)
    save_checkpoint(old, tmp_path / "model")

    class KilledError(BaseException):
        pass

    synced = 0

    def killed(path: Path) -> None:
        nonlocal synced
        synced += 1
        if synced == files_written:
            raise KilledError

    monkeypatch.setattr(module, "_sync", killed)
    # A killed process runs no clean-up either.
    monkeypatch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KilledError):
        save_checkpoint(new, tmp_path / "model")
    assert equal(load_checkpoint(tmp_path / "model").weights, old.weights)


def test_a_kill_between_the_two_renames_leaves_the_old_checkpoint_under_its_other_name(
    tmp_path: Path,
) -> None:
    save_checkpoint(checkpoint(), tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "model.previous")
    assert load_checkpoint(tmp_path / "model").config == CONFIG
    save_checkpoint(checkpoint(2), tmp_path / "model")
    assert equal(load_checkpoint(tmp_path / "model").weights, checkpoint(2).weights)
    assert not (tmp_path / "model.previous").exists()


def test_a_directory_of_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(BundleError, match=r"thesis\.docx"):
        save_checkpoint(checkpoint(), tmp_path)
    assert (tmp_path / "thesis.docx").read_text() == "years of work"


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "vocabulary.json"])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model" / name
    save_checkpoint(checkpoint(), tmp_path / "model")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BundleError):
        load_checkpoint(tmp_path / "model")
    path.unlink()
    with pytest.raises(BundleError, match=name):
        load_checkpoint(tmp_path / "model")


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / "model")
    (tmp_path / "model" / "vocabulary.json").write_bytes(msgspec.json.encode(["a", "b"]))
    with pytest.raises(BundleError, match="2 items"):
        load_checkpoint(tmp_path / "model")


def test_weights_of_another_shape_are_refused() -> None:
    damaged = checkpoint()
    damaged.weights["hidden_weight_1"] = torch.zeros(4, 5)
    with pytest.raises(BundleError, match="hidden_weight_1"):
        damaged.model()


def test_nothing_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nextclick train"):
        load_checkpoint(tmp_path / "nowhere")


def test_left_over_temporary_directories_are_not_taken_for_checkpoints(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / ".model.abc123")
    assert load_checkpoint(tmp_path / "model").config == CONFIG
