"""What classes say of their fields in the source: names, types, defaults, and the docstrings below them."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Field(NamedTuple):
    """A field as its class declares it."""

    name: str
    type: str
    default: str
    """As the source has it; empty where a value must be given."""
    meaning: str
    """Its docstring on one line; empty where it has none."""


def fields(owner: type) -> list[Field]:
    """Annotated fields of a class, in order; those whose name begins with `_` are its own business."""
    body = _class_of(owner).body
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and not node.target.id.startswith("_")
        ):
            default = ast.unparse(node.value) if node.value is not None else ""
            found.append(Field(node.target.id, ast.unparse(node.annotation), default, _text(after)))
    return found


def meanings(owner: type) -> dict[str, str]:
    """The docstrings under the fields, by name."""
    return {field.name: field.meaning for field in fields(owner) if field.meaning}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table, line by line; bars and line ends in cells are made harmless."""
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(_cell(text) for text in row) + " |"


def code(text: str) -> str:
    """In backticks, or nothing where there is nothing."""
    return f"`{text}`" if text else ""


def said_of_json(text: str) -> str:
    """What the source says of a field, for readers of the JSON."""
    return re.sub(r"\bNone\b", "null", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _class_of(owner: type) -> ast.ClassDef:
    module = sys.modules[owner.__module__].__file__
    assert module is not None
    return next(
        node
        for node in ast.walk(ast.parse(Path(module).read_text()))
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__
    )


def _text(node: ast.stmt | None) -> str:
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ):
        return " ".join(node.value.value.split())
    return ""
