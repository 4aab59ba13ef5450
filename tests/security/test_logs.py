"""What a log line may hold: JSON on one line whatever is in it, and no visitor by name."""

import ast
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from stream_app.logging_setup import (
    PERSONAL_KEYS,
    get_logger,
    pseudonym,
    set_up_logging,
    without_secrets,
)
from tests.security.hostile import HOSTILE_TEXTS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets logging up as a service does; gives a function that reads what was logged."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    set_up_logging("info", process="test")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook
    structlog.reset_defaults()


def test_ids_of_persons_are_written_as_their_pseudonym(lines: Any) -> None:
    get_logger("a").warning("seen", session_id="visitor-4711", user_id=None, session_ids=["a", "b"])
    (line,) = lines()
    assert line["session_id"] == pseudonym("visitor-4711") == "ab8e4d9c77fa"
    assert line["session_ids"] == [pseudonym("a"), pseudonym("b")]
    assert line["user_id"] is None


def test_a_library_that_names_them_as_fields_is_treated_alike(lines: Any) -> None:
    structlog.get_logger("faust.anything").error("failed", visitor_id="visitor-4711")
    assert lines()[0]["visitor_id"] == pseudonym("visitor-4711")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_whatever_is_logged_stays_one_line_of_json(lines: Any, text: str) -> None:
    get_logger("a").warning("odd", item_id=text, session_id=text)
    logging.getLogger("kafka").warning("a foreign %s", text)
    ours, foreign = lines()
    assert ours["item_id"] == text
    assert ours["session_id"] == pseudonym(text)
    assert foreign["event"] == f"a foreign {text}"


def test_user_and_password_of_a_url_are_blotted_out() -> None:
    assert without_secrets("s3://key:se%2Fcret@host/a and http://h/p?x=a@b") == (
        "s3://***@host/a and http://h/p?x=a@b"
    )


def test_no_log_call_and_no_error_carries_a_personal_id_under_another_name() -> None:
    """In the sources: a log call may pass ids only as fields that are hashed, an error not at all.

    Allowed: error texts that name the *field*, and what a tool says to the user who asked for that id.
    """
    found = []
    for path in [*REPOSITORY.glob("stream_app/**/*.py"), *REPOSITORY.glob("export/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _is_log_or_error(node):
                found += [
                    f"{path.relative_to(REPOSITORY)}:{node.lineno} {name}"
                    for keyword, value in _arguments(node)
                    if keyword not in PERSONAL_KEYS
                    for name in _names_in(value)
                    if name in PERSONAL_KEYS
                ]
    assert [place for place in found if "stream_app/cli/session.py" not in place] == []


def _is_log_or_error(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Attribute):
        owner = function.value
        return isinstance(owner, ast.Name) and owner.id in ("log", "logger", "logging")
    return isinstance(function, ast.Name) and function.id.endswith("Error")


def _arguments(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    yield from (("", value) for value in call.args)
    yield from ((keyword.arg or "", keyword.value) for keyword in call.keywords)


def _names_in(value: ast.expr) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
