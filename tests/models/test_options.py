"""Flags of a training, and what is said without PyTorch.  Runs where torch is not installed."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from models import options as module
from models.config import preset
from models.options import TrainingOptions, require_torch, training_options
from stream_app.core.errors import ConfigurationError


@click.command()
@training_options
def echo(options: TrainingOptions) -> None:
    seen.append(options)


seen: list[TrainingOptions] = []


def options_of(*flags: str) -> TrainingOptions:
    seen.clear()
    result = CliRunner().invoke(echo, ["--data", "f.csv", "--out", "model", *flags])
    if result.exception is not None:
        raise result.exception
    return seen[0]


def test_flags_change_the_preset() -> None:
    options = options_of("--preset", "diginetica", "--epochs", "5", "--loss", "cross-entropy")
    assert options.config == preset("diginetica").changed(epochs=5, loss="cross-entropy")
    assert options.data == Path("f.csv")
    assert options.resume_directory == Path("model.unfinished")


def test_columns_are_mapped_from_ours_to_theirs() -> None:
    assert options_of("--column", "item_id=sku").columns == {"item_id": "sku"}
    with pytest.raises(ConfigurationError, match="OURS=THEIRS"):
        options_of("--column", "sku")


def test_every_hyperparameter_has_a_flag_of_its_name() -> None:
    result = CliRunner().invoke(echo, ["--help"])
    for name in preset("rsc15").__struct_fields__:
        assert f"--{name.replace('_', '-')} " in result.output


@pytest.mark.parametrize("flags", [("--test-share", "1.5"), ("--holdout-days", "0")])
def test_values_that_hold_out_nothing_are_refused(flags: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=flags[0]):
        options_of(*flags)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r'pip install "nextclick\[training\]"'):
        require_torch()


def test_reading_the_flags_imports_no_torch() -> None:
    code = "import sys, models.options, stream_app.evaluation.sessions, stream_app.evaluation.baselines; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
