"""`nextclick models`: the versions in the registry, and which of them is live."""

from datetime import datetime

import click
from rich.console import Console
from rich.table import Table

from stream_app.adapters.releases import Release, promote, read_latest, rollback
from stream_app.cli.options import with_settings
from stream_app.core.errors import BundleError, ConfigurationError, ServiceAwayError
from stream_app.core.manifest import ModelManifest
from stream_app.core.records import NO_MODEL
from stream_app.files.registry import Registry
from stream_app.settings import Settings

_settings = with_settings("registry", "kafka.bootstrap_servers")
_PIPE_WIDTH = 500


@click.group()
def models() -> None:
    """Model versions in the registry: list, show, promote, roll back.

    \b
    Example:
      nextclick models list
      nextclick models promote 20261124T111132Z-3f2a
      nextclick models rollback
    """


@models.command("list")
@_settings
def list_command(settings: Settings) -> None:
    """Show every version, oldest first, with its held-out quality; the live one is marked.

    \b
    Example:
      nextclick models list --registry /var/lib/nextclick/registry
    """
    registry = Registry(settings.registry)
    versions = registry.versions()
    live = _live_version(settings)
    if not versions:
        click.echo(
            f"registry {settings.registry} is empty: `nextclick retrain --once` publishes into it"
        )
        return
    table = Table(title=f"models in {settings.registry}", title_justify="left")
    for name in ("", "version", "architecture"):
        table.add_column(name, no_wrap=name == "version")
    for name in ("items", "clicks", "recall@20", "MRR@20"):
        table.add_column(name, justify="right")
    table.add_column("trained on clicks until")
    table.add_column("kept as")
    for version in versions:
        mark = "live" if version == live else ""
        try:
            table.add_row(mark, version, *_row(registry.manifest(version)))
        except BundleError as error:
            table.add_row(mark, version, f"unreadable: {error}")
    _print(table)


@models.command()
@click.argument("version")
@_settings
def show(settings: Settings, version: str) -> None:
    """Verify one version (every hash, every check before serving) and print its manifest as JSON.

    \b
    Example:
      nextclick models show 20261124T111132Z-3f2a
    """
    bundle = Registry(settings.registry).open(version)
    click.echo(bundle.manifest.to_json().decode())


@models.command("promote")
@click.argument("version")
@click.option("--reason", default="promoted by hand", show_default=True, help="Kept on the topic.")
@_settings
def promote_command(settings: Settings, version: str, reason: str) -> None:
    """Make VERSION live; workers switch within seconds.  `none` goes back to the statistics.

    The version is verified first; a damaged one is not promoted.

    \b
    Example:
      nextclick models promote 20261124T111132Z-3f2a --reason "better on mobile"
    """
    if version == NO_MODEL:
        _tell(promote(settings.kafka, settings.topics.releases, None, reason=reason))
        return
    Registry(settings.registry).fetch(version)
    _tell(promote(settings.kafka, settings.topics.releases, version, reason=reason))


@models.command("rollback")
@click.option(
    "--reason", default="rolled back by hand", show_default=True, help="Kept on the topic."
)
@_settings
def rollback_command(settings: Settings, reason: str) -> None:
    """Make the version live that was live before; again, and the one before that.

    \b
    Example:
      nextclick models rollback --reason "hit rate fell"
    """
    current = read_latest(settings.kafka, settings.topics.releases)
    if current is not None and current.history:
        Registry(settings.registry).fetch(current.history[-1])
    _tell(rollback(settings.kafka, settings.topics.releases, reason=reason))


def _live_version(settings: Settings) -> str | None:
    """The list is worth showing without a broker, too."""
    try:
        release = read_latest(settings.kafka, settings.topics.releases)
    except (ServiceAwayError, ConfigurationError) as error:
        click.echo(f"which version is live is unknown: {error}", err=True)
        return None
    return release.model_version if release else None


def _row(manifest: ModelManifest) -> tuple[str, ...]:
    quality = manifest.metrics.get("candidate", {})
    until = manifest.training.get("last_event_ms")
    return (
        manifest.architecture,
        f"{manifest.n_items:,}",
        f"{manifest.training['clicks']:,}" if "clicks" in manifest.training else "",
        f"{quality['recall_20']:.3f}" if "recall_20" in quality else "",
        f"{quality['mrr_20']:.3f}" if "mrr_20" in quality else "",
        f"{datetime.fromtimestamp(until / 1000).astimezone():%Y-%m-%d %H:%M:%S %Z}"
        if until
        else "",
        "whole"
        if manifest.delta is None
        else f"{manifest.delta.size_bytes / 1e6:,.1f} MB on {manifest.delta.base}",
    )


def _tell(release: Release) -> None:
    now = release.model_version or "no model (statistics answer)"
    click.echo(f"live: {now}; before: {release.previous or 'no model'}")


def _print(table: Table) -> None:
    """Where nobody looks, as wide as it gets: a pipe must not receive cut columns."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)
