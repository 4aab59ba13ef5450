"""README.md tells what is there: every setting, every file, every command, no command that is not."""

import re

from click import Context

from stream_app.cli import COMMANDS, program
from tests.readme import README, current

OFFLINE = {"train", "export", "retrain", "refresh"}


def test_settings_and_files_are_told_as_they_are() -> None:
    assert README.read_text() == current(), "run: python -m tests.readme"


def test_every_command_is_told_and_every_told_command_exists() -> None:
    told = set(re.findall(r"nextclick ([a-z][a-z-]*)", README.read_text()))
    assert {*COMMANDS, *OFFLINE} <= told
    assert told <= {*COMMANDS, *OFFLINE}


def test_every_flag_that_is_told_exists() -> None:
    context = Context(program)
    for line in README.read_text().splitlines():
        for call in re.findall(r"nextclick ((?:[a-z-]+ )?[a-z][a-z-]*[^`#|;&]*--[^`#|;&]*)", line):
            words = call.split()
            command = program.get_command(context, words[0])
            assert command is not None, line
            if len(words) > 1 and hasattr(command, "commands") and words[1] in command.commands:
                command = command.commands[words[1]]
            flags = {option for parameter in command.params for option in parameter.opts}
            told = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert told <= flags, f"{line}: {told - flags}"


def test_every_make_target_that_is_told_exists() -> None:
    makefile = (README.parent / "Makefile").read_text()
    told = set(re.findall(r"\bmake ([a-z][a-z-]+)", README.read_text()))
    assert told
    for target in told:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
