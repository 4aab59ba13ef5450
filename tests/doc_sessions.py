"""The shell sessions of a page of documentation, run as they stand there.

A block is run if `<!-- run -->` stands above it.  In it a line `$ ...` is a command, `> ...` goes on with it, and
what follows up to the next command is what the two print, standard error included.  All blocks of a page are one shell,
so that what one starts or sets is there in the next.

Printed lines are compared, but any number may stand for any other, and `[...]` for anything: within a line, or alone in
a line for any lines.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_BLOCK = re.compile(r"^<!-- run -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARKS = re.compile(r"<<< command (\d+) gave (\d+) >>>\n")
_TIMEOUT_SECONDS = 540


@dataclass(frozen=True)
class Command:
    """A command of a page, and what the page says that it prints."""

    text: str
    printed: str
    line: int
    """Where it stands in the page, from 1."""


def commands(page: Path) -> list[Command]:
    """All commands of a page that are run, in order."""
    text = page.read_text()
    found: list[Command] = []
    for block in _BLOCK.finditer(text):
        first_line = text.count("\n", 0, block.start(1)) + 1
        lines = block[1].splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        assert starts[:1] == [0], f"{page.name}, line {first_line}: a block begins with a command"
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            after = start + 1
            while after < end and (lines[after] == ">" or lines[after].startswith("> ")):
                after += 1
            text_lines = [line[2:] for line in lines[start:after]]
            printed = "\n".join(lines[after:end])
            found.append(Command("\n".join(text_lines), printed, first_line + start))
    return found


def run(
    page: Path, directory: Path, environment: Mapping[str, str], replace: Mapping[str, str]
) -> Iterator[str]:
    """What went otherwise than the page says; a line or more for each command of which that is so.

    directory: where the shell is.  replace: texts of the page, and what stands for them here (ports that others
    have taken), in commands and in what they print.
    """
    told = commands(page)

    def here(text: str) -> str:
        for theirs, ours in replace.items():
            text = text.replace(theirs, ours)
        return text

    # `set -m` gives background processes the numbers %1, %2, ... that a reader types.
    script = "set -m\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n" + "".join(
        f"{here(command.text)}\nstatus=$?\nprintf '\\n<<< command %s gave %s >>>\\n' {number} $status\n"
        "[ $status = 0 ] || exit\n"
        for number, command in enumerate(told)
    )
    printed_file = directory / ".printed"
    with printed_file.open("wb") as stream:
        # A file, not a pipe: what runs on in the background would hold a pipe open.
        shell = psutil.Popen(
            ["bash", "-c", script],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            shell.wait(timeout=_TIMEOUT_SECONDS)
        except psutil.TimeoutExpired:
            yield f"{page.name} does not come to an end within {_TIMEOUT_SECONDS} s"
        finally:
            _kill_with_children(shell)
    output = printed_file.read_text()
    pieces = _MARKS.split(output)
    for command, printed, status in zip(told, pieces[0::3], pieces[2::3], strict=False):
        where = f"{page.name}, line {command.line}: {command.text.splitlines()[0]}"
        if status != "0":
            yield f"{where}\nends with status {status} and prints:\n{printed}"
        elif not is_as_told(printed, here(command.printed)):
            yield f"{where}\nprints:\n{printed}\ninstead of:\n{command.printed}"
    if len(pieces) // 3 < len(told):
        yield f"only {len(pieces) // 3} of {len(told)} commands came to an end: {output[-2000:]}"


def _kill_with_children(shell: psutil.Popen) -> None:
    left = [*shell.children(recursive=True), shell] if shell.is_running() else []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def is_as_told(printed: str, told: str) -> bool:
    """Whether a command's output is what the page says, numbers and left-out parts aside.

    >>> is_as_told("broker at 127.0.0.1:29 (pid 7)\\n", "broker at 127.0.0.1:9092 (pid 31337)")
    True
    >>> is_as_told("ok\\nnote\\n0 problems", "[...]\\n0 problems") and is_as_told("a b c", "a [...] c")
    True
    >>> is_as_told("2 problems found", "0 problems were found")
    False
    """
    pattern = ""
    for line in told.strip().splitlines():
        if line.strip() == "[...]":
            pattern += r"(?:.*\n)*?"
            continue
        parts = [re.sub(r"\d+", r"\\d+", re.escape(part)) for part in line.rstrip().split("[...]")]
        pattern += ".*".join(parts) + r"[ ]*\n"
    lines = "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())
    return re.fullmatch(pattern, lines) is not None
