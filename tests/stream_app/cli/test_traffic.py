"""What a user of `replay` and `simulate` may write, and is told."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stream_app.cli import main, program
from stream_app.cli.traffic import Moment
from stream_app.core.errors import ServiceAwayError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(program, arguments)


@pytest.mark.parametrize("command", ["replay", "simulate", "archive"])
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"nextclick {command}" in result.output.split("Example")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speed", "fast"], "write a number above 0 (1 is as recorded), or max"),
        (["--speed", "0"], "write a number above 0"),
        (["--from", "yesterday"], "is no time: write e.g. 2014-04-08"),
        (["--columns", "item_id"], "write OURS=COLUMN pairs"),
        (["--limit", "0"], "x>=1"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_says_what_to_write(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    result = run("replay", str(tmp_path / "f"), *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_moments_are_iso_8601_or_milliseconds() -> None:
    convert = Moment().convert
    assert convert("2014-04-08", None, None) == 1396915200000
    assert convert("2014-04-08T02:00:00+02:00", None, None) == 1396915200000
    assert convert("1396915200000", None, None) == 1396915200000


@pytest.mark.parametrize("command", [["replay", "FILE", "--speed", "max"], ["simulate"]])
def test_without_a_broker_the_end_is_69_before_the_file_is_read(
    command: list[str], tmp_path: Path
) -> None:
    """A file that would be refused is not even looked at."""
    (tmp_path / "FILE").write_text("no click file")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    arguments = [str(tmp_path / part) if part == "FILE" else part for part in command]
    result = run(*arguments, "--kafka-bootstrap-servers", f"127.0.0.1:{port}")
    assert isinstance(result.exception, ServiceAwayError)
    assert "no broker answers" in str(result.exception)
    assert result.exception.exit_status == 69


def test_the_program_ends_with_the_status_of_the_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["nextclick", "simulate", "--out", str(tmp_path / "o.jsonl")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "--seconds" in capsys.readouterr().err
