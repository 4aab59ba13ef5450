"""Flags that commands share: settings under their dotted names, and the file they come from."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from stream_app.core.errors import ConfigurationError
from stream_app.logging_setup import keep_secret
from stream_app.settings import SECRETS, Settings, load_settings, loose_files, secrets_of

_FLAGS: dict[str, tuple[tuple[str, ...], str]] = {
    "kafka.bootstrap_servers": (
        ("--kafka-bootstrap-servers", "--bootstrap-servers"),
        "Brokers, host:port, comma-separated.",
    ),
    "registry": (("--registry",), "Directory or URL of the model bundles."),
    "click_log": (("--click-log",), "Directory or URL of the click log."),
    "data_dir": (("--data-dir",), "RocksDB and scratch of this process."),
    "metrics.port": (("--metrics-port",), "Port of /metrics, /healthz, /readyz; 0: a free one."),
    "metrics.host": (("--metrics-host",), "Address they listen on."),
    "gateway.port": (("--port",), "Port the gateway listens on; 0: a free one."),
    "gateway.host": (("--host",), "Address it listens on."),
    "topics.partitions": (("--partitions",), "Partitions of clicks, recommendations, sessions."),
    "topics.replication": (("--replication",), "Copies of each partition."),
}


def with_settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `settings: Settings` as first argument, and a flag for each setting in `names`.

    Any other setting is reached by `--set NAME=VALUE`.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(
            *args: Any, settings_file: Path | None, assignments: tuple[str, ...], **kwargs: Any
        ) -> Any:
            flags: dict[str, Any] = dict(_assignment(text) for text in assignments)
            for name in names:
                value = kwargs.pop(_parameter(name))
                if value is not None:
                    flags[name] = value
            settings = load_settings(flags, file=settings_file)
            for secret in secrets_of(settings):
                keep_secret(secret)
            for warning in loose_files(settings, file=settings_file):
                click.echo(f"nextclick: warning: {warning}", err=True)
            return command(settings, *args, **kwargs)

        decorated = click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="NAME=VALUE",
            help="Any setting by its dotted name, e.g. serving.top_k=10.",
        )(run)
        decorated = click.option(
            "--settings",
            "settings_file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Settings file [default: nextclick.toml, if it is there].",
        )(decorated)
        for name in reversed(names):
            flags, text = _FLAGS[name]
            decorated = click.option(*flags, _parameter(name), default=None, help=text)(decorated)
        return decorated

    return decorate


def settings_as_flags(settings: Settings) -> list[str]:
    """The settings that differ from the defaults, as `--set` flags for a child process of ours.

    Secrets are left out: they travel in the environment.
    """
    default = Settings().model_dump(mode="json")
    flags: list[str] = []

    def walk(branch: dict[str, Any], base: dict[str, Any], prefix: str) -> None:
        for name, value in branch.items():
            if isinstance(value, dict):
                walk(value, base[name], f"{prefix}{name}.")
            elif value != base[name] and f"{prefix}{name}" not in SECRETS:
                text = ",".join(value) if isinstance(value, list) else str(value)
                flags.extend(("--set", f"{prefix}{name}={text}"))

    walk(settings.model_dump(mode="json"), default, "")
    return flags


def _parameter(name: str) -> str:
    return name.replace(".", "_")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        shown = text if "password" not in text.lower() else "..."
        raise ConfigurationError(f"--set {shown}: write NAME=VALUE, e.g. --set serving.top_k=10")
    return name.strip(), value
