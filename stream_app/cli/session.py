"""`nextclick session`: what is known of a visitor's session."""

from collections.abc import Iterator
from pathlib import Path

import click

from stream_app.cli.options import with_settings
from stream_app.core.errors import ConfigurationError
from stream_app.core.records import NO_MODEL
from stream_app.settings import Settings
from stream_app.tools import sessions
from stream_app.tools.plain_text import moment, printable


@click.command()
@click.argument("session_id", required=False)
@click.option(
    "--export",
    "export_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write every session, a JSON line each.",
)
@with_settings("kafka.bootstrap_servers", "registry")
def session(settings: Settings, session_id: str | None, export_file: Path | None) -> None:
    """Say what is known of SESSION_ID and what it was last shown, or export all sessions.

    Read from the changelog topic, so no worker is disturbed and none need run.

    \b
    Example:
      nextclick session visitor-4711
      nextclick session --export sessions.jsonl
    """
    if session_id is None and export_file is None:
        raise click.UsageError("give a SESSION_ID, or --export FILE for all sessions")
    table = sessions.read_sessions(settings.kafka, settings.topics.sessions)
    if table.unreadable:
        click.echo(f"{table.unreadable} unreadable records were passed over", err=True)
    if session_id is not None:
        found = table.find(session_id)
        if not found:
            raise ConfigurationError(
                f"no session {printable(session_id)} in {settings.topics.sessions}, which knows "
                f"{len(table):,} sessions: it never clicked, expired, was erased or gave no consent.  "
                "`--export FILE` lists all"
            )
        for number, known in enumerate(found):
            if number:
                click.echo()
            for line in _describe(known, settings):
                click.echo(line)
    if export_file is not None:
        count = sessions.export_sessions(table, export_file)
        click.echo(f"{count:,} sessions written to {export_file}", err=True)


def _describe(known: sessions.KnownSession, settings: Settings) -> Iterator[str]:
    state = known.state
    yield f"session      {printable(known.session_id)}"
    yield f"partition    {known.partition} (last click applied: offset {state.last_offset})"
    yield f"clicks       {state.click_count}"
    yield f"first event  {moment(state.start_ms)}"
    yield f"last event   {moment(state.last_event_ms)}"
    yield f"model        {printable(state.model_version) or 'none has seen it'}"
    yield f"recent items ({len(state.recent_item_ids)}, oldest first)"
    for item_id in state.recent_item_ids:
        yield f"  {printable(item_id)}"
    if not state.shown_hashes:
        yield "last shown   nothing"
        return
    version = state.shown_model_version
    by = "statistics" if version == NO_MODEL else f"model {printable(version)}"
    yield f"last shown   by {by}, best first"
    candidates = (
        *sessions.vocabulary_of(settings.registry, version),
        *state.recent_item_ids,
        *sessions.counted_items(settings.kafka, settings.topics.statistics),
    )
    for item in sessions.shown_items(known, candidates):
        names = " or ".join(printable(name) for name in item.item_ids)
        yield f"  {item.rank:>3}  {names or f'unresolved ({item.item_hash:08x})'}"
