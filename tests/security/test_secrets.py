"""A password is in no argument, no log line, no crash report, no message and no metric."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stream_app.adapters.instruments import process_registry
from stream_app.cli import COMMANDS, program
from stream_app.cli.options import settings_as_flags, with_settings
from stream_app.core.errors import ConfigurationError
from stream_app.demo.workspace import Workspace, environment_of_children
from stream_app.settings import KafkaSettings, Settings, load_settings, loose_files

SECRET = 'correct "horse" battery'
VARIABLE = "NEXTCLICK_KAFKA__SASL_PASSWORD"
REPOSITORY = Path(__file__).parents[2]


def settings_with_secret() -> Settings:
    return load_settings({}, environment={VARIABLE: SECRET})


def test_settings_shown_or_in_a_message_lack_the_password() -> None:
    settings = settings_with_secret()
    assert settings.kafka.sasl_password == SECRET
    for text in (repr(settings), str(settings), f"{settings.kafka}", repr(vars(settings))):
        assert SECRET not in text


def test_a_password_as_a_flag_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match=VARIABLE) as caught:
        load_settings({"kafka.sasl_password": SECRET}, environment={})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("flag", [f"kafka.sasl_password={SECRET}", f"kafka.sasl_password {SECRET}"])
def test_the_program_refuses_it_too(flag: str) -> None:
    ended = nextclick("topics", "check", "--set", flag)
    assert ended.returncode == 2
    assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "text",
    [
        "kafka.sasl_password = 8273645546",
        "kafka.sasl_password = ['8273645546']",
        "[kafka.sasl_password]\nvalue = '8273645546'",
    ],
)
def test_a_password_of_the_wrong_type_is_not_repeated(tmp_path: Path, text: str) -> None:
    file = tmp_path / "nextclick.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl_password") as caught:
        load_settings({}, environment={}, file=file)
    assert "8273645546" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_children_get_no_password_as_an_argument_and_the_demo_writes_none(tmp_path: Path) -> None:
    """The demo's broker asks for none, and what the user's asks for is none of its children's business."""
    settings = settings_with_secret()
    assert SECRET not in " ".join(settings_as_flags(settings))
    workspace = Workspace(tmp_path / "demo", keep=True)
    workspace.settings(settings, "127.0.0.1:1", sessions_min=1)
    assert SECRET not in workspace.settings_file.read_text()
    assert VARIABLE not in environment_of_children()


def test_no_command_shows_a_password_in_its_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    for name in COMMANDS:
        shown = CliRunner().invoke(program, [name, "--help"])
        assert shown.exit_code == 0
        assert SECRET not in shown.output
        assert "password" not in shown.output.lower(), "no flag for it"


def test_metrics_of_a_process_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415

    monkeypatch.setenv(VARIABLE, SECRET)
    assert SECRET not in generate_latest(process_registry()).decode()


CRASH = """
import sys, threading
from stream_app.cli.options import with_settings
from stream_app.logging_setup import get_logger, set_up_logging

@with_settings()
def run(settings):
    set_up_logging("info", process="worker")
    secret = settings.kafka.sasl_password
    get_logger("test").warning("told", options={"sasl_plain_password": secret}, where=f"s3://me:{secret}@host/x")
    thread = threading.Thread(target=lambda: settings.nothing[secret])
    thread.start(); thread.join()
    try:
        raise RuntimeError(f"cannot connect with {secret!r}, {settings!r}")
    except RuntimeError as error:
        raise ValueError({"password": secret}) from error

import click
click.command()(run).main([], standalone_mode=False)
"""


def test_a_crash_report_is_json_lines_without_the_password() -> None:
    """An exception that nobody caught, with the settings in its frames and the secret in its text."""
    ended = subprocess.run(
        [sys.executable, "-c", CRASH],
        env={**os.environ, VARIABLE: SECRET, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["told", "crashed", "crashed"]
    assert "RuntimeError" in lines[-1]["exception"]
    assert "***" in lines[-1]["exception"]
    assert "horse" not in ended.stderr


def test_an_error_message_of_the_program_lacks_it_and_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @with_settings()
    def failing(settings: Settings) -> None:
        raise ConfigurationError(
            f"{settings.kafka.sasl_password} \x1b[2J\u202e of\nthe second line"
        )

    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setattr("stream_app.cli.program", failing)
    monkeypatch.setattr(sys, "argv", ["nextclick"])
    from stream_app.cli import main  # noqa: PLC0415

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "nextclick: *** ·[2J· of\nthe second line\n"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o644, 0o640, 0o606])
def test_a_password_file_that_others_can_read_is_warned_of(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    file.chmod(mode)
    settings = load_settings({"kafka.sasl_password_file": file}, environment={})
    assert settings.kafka.sasl_password == SECRET
    warnings = loose_files(settings, environment={})
    assert bool(warnings) == bool(mode & 0o077)
    assert all(str(file) in text and "chmod 600" in text for text in warnings)
    assert SECRET not in "".join(warnings)


def test_so_is_a_settings_file_with_a_password_and_the_key_of_a_certificate(tmp_path: Path) -> None:
    file, key = tmp_path / "nextclick.toml", tmp_path / "key.pem"
    key.write_text("key")
    file.write_text(f"[kafka]\nsasl_password = '{SECRET}'\nssl_keyfile = '{key}'\n")
    for path in (file, key):
        path.chmod(0o644)
    command = ("archive", "--compact", "--click-log", str(tmp_path), "--settings", str(file))
    warned = nextclick(*command)
    assert f"settings file {file} holds a secret" in warned.stderr
    assert f"kafka.ssl_keyfile {key} holds a secret" in warned.stderr
    for path in (file, key):
        path.chmod(stat.S_IRUSR)
    assert "holds a secret" not in nextclick(*command).stderr


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe", "is not UTF-8"), (b"x" * 5000, "larger than 4096 bytes")]
)
def test_what_is_no_password_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says):
        load_settings({"kafka.sasl_password_file": file}, environment={})


def test_credentials_for_faust_and_the_clients_do_not_show_it() -> None:
    from stream_app.services.worker import _credentials  # noqa: PLC0415

    kafka = KafkaSettings(
        security_protocol="SASL_PLAINTEXT", sasl_username="me", sasl_password=SECRET
    )
    credentials = _credentials(Settings(kafka=kafka))
    assert SECRET not in repr(credentials)
    assert SECRET not in str(credentials)


def nextclick(*arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCLICK_")}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "stream_app",
            *arguments,
            "--bootstrap-servers",
            "127.0.0.1:9",  # nothing listens on the discard port
        ],
        env={**clean, "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY / "tests",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
