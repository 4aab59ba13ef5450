"""`nextclick dead-letters` and `nextclick doctor`: looking at a running system."""

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream_app.cli.options import with_settings
from stream_app.settings import Settings
from stream_app.tools.plain_text import printable

_PIPE_WIDTH = 500


@click.group("dead-letters")
def dead_letters() -> None:
    """Clicks that could not be used: look at them, and send them again.

    \b
    Example:
      nextclick dead-letters list --limit 50
      nextclick dead-letters requeue --error BadEventTime
    """


_error = click.option("--error", metavar="CLASS", help="Only this error class, e.g. BadEventTime.")


@dead_letters.command("list")
@with_settings("kafka.bootstrap_servers")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest.")
@_error
def list_command(settings: Settings, limit: int, error: str | None) -> None:
    """Show the newest dead letters and what is wrong with them.

    \b
    Example:
      nextclick dead-letters list --error MalformedJson
    """
    from stream_app.tools.dead_letters import newest_letters, preview, when  # noqa: PLC0415

    letters = newest_letters(settings, limit=limit, error=error)
    if not letters:
        of_class = f" of class {printable(error)}" if error else ""
        click.echo(f"no dead letters{of_class} on {settings.topics.dead_letters}")
        return
    table = Table(title=f"dead letters on {settings.topics.dead_letters}", title_justify="left")
    table.add_column("when (UTC)", no_wrap=True)
    table.add_column("click at", no_wrap=True)
    for name in ("error", "what is wrong", "value"):
        table.add_column(name, overflow="fold")
    for letter in letters:
        # As Text: what a stranger sent is not to be taken for markup.
        table.add_row(
            when(letter.written_ms),
            Text(printable(letter.source)),
            Text(printable(letter.error)),
            Text(printable(letter.message)),
            Text(preview(letter.value)),
        )
    _print(table)
    click.echo("once mended: nextclick dead-letters requeue")


@dead_letters.command()
@with_settings("kafka.bootstrap_servers")
@_error
def requeue(settings: Settings, error: str | None) -> None:
    """Send dead letters to the click topic again, each at most once, key, value and headers untouched.

    What is still wrong with them comes back as a new dead letter.

    \b
    Example:
      nextclick dead-letters requeue --error BadEventTime
    """
    from stream_app.tools.dead_letters import requeue as requeue_letters  # noqa: PLC0415

    done = requeue_letters(settings, error=error)
    for name, count in sorted(done.sent.items()):
        click.echo(f"{printable(name)}: {count} sent again")
    before = f" ({done.sent_before} were sent before)" if done.sent_before else ""
    click.echo(f"{sum(done.sent.values())} dead letters sent to {settings.topics.clicks}{before}")


@click.command()
@with_settings(
    "kafka.bootstrap_servers",
    "registry",
    "click_log",
    "data_dir",
    "topics.partitions",
    "topics.replication",
)
def doctor(settings: Settings) -> int:
    """Check settings, broker, topics, model, and directories; each finding says what to do.

    Exits 0 if nothing is wrong, 2 if something must be changed, 69 if a service is away.

    \b
    Example:
      nextclick doctor --bootstrap-servers kafka:9092 --registry /srv/registry
    """
    from stream_app.tools.doctor import Level, examine, exit_status  # noqa: PLC0415

    marks = {Level.OK: "ok      ", Level.NOTE: "note    ", Level.PROBLEM: "PROBLEM "}
    findings = []
    for finding in examine(settings):
        findings.append(finding)
        click.echo(f"{marks[finding.level]}{finding.about}: {finding.message}")
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    click.echo(f"{problems} problem{'s' if problems != 1 else ''} found")
    return exit_status(findings)


def _print(table: Table) -> None:
    """As wide as the terminal; into a pipe wide enough to be searched."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)
