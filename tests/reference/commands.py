"""Reference of the commands: what `--help` says, for each of them."""

import inspect
from collections.abc import Iterator

import click

from stream_app.cli import program
from tests.reference.source import code, table

HEAD = """
One program. Every command has `--help`, ends cleanly on Ctrl-C, and any setting is reached by `--set NAME=VALUE`
([settings](settings.md)). `nextclick train`, `nextclick export` and `nextclick retrain` need the environment with torch
(`make training-env`).

| exit status | meaning |
|---|---|
| 0 | done |
| 2 | usage or configuration: the message says what to write instead; starting again does not help |
| 69 | a needed service (usually the broker) is away: try again later |
| 70 | an invariant broke, nothing was acknowledged: start it again |
| 130 | ended by Ctrl-C |
"""

_SHARED = ("settings_file", "assignments", "help")


def page() -> Iterator[str]:
    """A section per command, in alphabetical order."""
    yield "# Commands"
    yield HEAD
    commands = list(every_command())
    yield from table(
        ("command", "what it does"),
        (
            (f"[`nextclick {' '.join(names)}`](#nextclick-{'-'.join(names)})", _first_line(command))
            for names, command in commands
            if not isinstance(command, click.Group)
        ),
    )
    for names, command in commands:
        if not isinstance(command, click.Group):
            yield ""
            yield from _section(names, command)


def every_command(
    group: click.Group = program, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Groups before what is in them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*above, name))


def _section(names: tuple[str, ...], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"nextclick {' '.join(names)}")
    yield f"## nextclick {' '.join(names)}"
    yield ""
    yield f"`{command.get_usage(context).removeprefix('Usage: ')}`"
    yield ""
    yield from _prose(command.help or "")
    rows = [
        _option(option, context)
        for option in command.params
        if isinstance(option, click.Option) and option.name not in _SHARED
    ]
    if rows:
        yield ""
        yield from table(("option", "takes", "default", "meaning"), rows)


def _prose(text: str) -> Iterator[str]:
    r"""Click's help text as Markdown: what follows a line `\b` keeps its lines."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ""
        if not paragraph.startswith("\b\n"):
            yield " ".join(paragraph.split())
            continue
        first, *rest = paragraph.removeprefix("\b\n").splitlines()
        yield first
        yield ""
        yield "```"
        yield from (line.strip() for line in rest)
        yield "```"


def _first_line(command: click.Command) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())


def _option(option: click.Option, context: click.Context) -> tuple[str, ...]:
    facts = option.to_info_dict()
    flags = "`, `".join([*option.opts, *option.secondary_opts])
    takes = "" if option.is_flag else option.make_metavar(context)
    if isinstance(option.type, click.Choice):
        takes = ", ".join(map(str, option.type.choices))
    elif not option.is_flag and hasattr(option.type, "_describe_range"):
        takes += f" {option.type._describe_range()}"
    default = facts["default"]
    shown = "" if option.is_flag or default in (None, ()) else str(default)
    if not option.show_default and not isinstance(default, (int, float, str)):
        shown = ""
    needed = " (required)" if option.required else ""
    return f"`{flags}`", takes, code(shown), (option.help or "") + needed
