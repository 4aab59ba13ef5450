"""The commands' own part: what is typed, what is said, what is missing."""

from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from export.cli import duration_seconds, export, refresh, retrain, train
from stream_app.core.errors import ConfigurationError


def invoke(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("60s", 60), ("15m", 900), ("1.5h", 5400), (" 2D ", 172_800)]
)
def test_durations_are_read_with_their_units(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "15 minutes", "-5m", "0s", "5x"])
def test_what_is_no_duration_is_told_what_one_looks_like(text: str) -> None:
    with pytest.raises(ConfigurationError, match="60s, 15m, 6h or 1d"):
        duration_seconds(text)


@pytest.mark.parametrize("command", [retrain, refresh])
@pytest.mark.parametrize("flags", [(), ("--once", "--every", "15m")])
def test_exactly_one_of_once_and_every_is_wanted(
    command: click.Command, flags: tuple[str, ...]
) -> None:
    with pytest.raises(click.UsageError, match="--once or --every"):
        invoke(command, *flags)


@pytest.mark.parametrize("command", [train, export, retrain, refresh])
def test_help_shows_an_example(command: click.Command) -> None:
    assert f"Example:\n    nextclick {command.name} --" in invoke(command, "--help").output


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed here")
def test_without_torch_each_command_says_what_to_install(tmp_path: Path) -> None:
    for command, flags in (
        (retrain, ("--once",)),
        (refresh, ("--once",)),
        (train, ("--data", "clicks.csv", "--out", str(tmp_path / "out"))),
        (export, ("--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"))),
    ):
        with pytest.raises(ConfigurationError, match=r'pip install "nextclick\[training\]"'):
            invoke(command, *flags)
