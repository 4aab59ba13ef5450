"""The `nextclick` program.  A file per command group; each command only reads settings and calls."""

import os
import sys
from importlib import import_module
from importlib.metadata import entry_points

import click

from stream_app.core.errors import NextclickError

COMMANDS: dict[str, str] = {
    "demo": "stream_app.cli.demo:demo",
    "broker": "stream_app.cli.broker:broker",
    "topics": "stream_app.cli.topics:topics",
    "items": "stream_app.cli.items:items",
    "worker": "stream_app.cli.worker:worker",
    "archive": "stream_app.cli.archive:archive",
    "statistics": "stream_app.cli.statistics:statistics",
    "evaluate": "stream_app.cli.evaluate:evaluate",
    "models": "stream_app.cli.models:models",
    "replay": "stream_app.cli.traffic:replay",
    "simulate": "stream_app.cli.traffic:simulate",
    "watch": "stream_app.cli.watch:watch",
    "gateway": "stream_app.cli.gateway:gateway",
    "session": "stream_app.cli.session:session",
    "dead-letters": "stream_app.cli.inspect:dead_letters",
    "doctor": "stream_app.cli.inspect:doctor",
}
"""Where each command is found; imported when it is called, so that no command pays for another."""

OFFLINE_GROUP = "nextclick.commands"
"""Entry point group by which the training packages add their commands: serving never imports them."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        offline = [point.name for point in entry_points(group=OFFLINE_GROUP)]
        return sorted({*COMMANDS, *offline})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        target = COMMANDS.get(name)
        if target is None:
            points = entry_points(group=OFFLINE_GROUP, name=name)
            if not points:
                return None
            target = next(iter(points)).value
        module_name, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module_name), attribute)
        return command


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nextclick")
def program() -> None:
    """Session-based recommendations on a live clickstream: clicks in from Kafka, ranked lists out."""


def main() -> None:
    """Run the program; exit 0 done, 2 usage or configuration, 69 a service is away, 70 restart me."""
    os.umask(os.umask(0o022) | 0o022)  # whatever we write, only its owner may change it
    try:
        status = program.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except NextclickError as error:
        # Imported here, because few commands end so.
        from stream_app.logging_setup import without_secrets  # noqa: PLC0415
        from stream_app.tools.plain_text import printable_lines  # noqa: PLC0415

        # It may quote what a stranger sent or named.
        click.echo(printable_lines(without_secrets(f"nextclick: {error}")), err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
