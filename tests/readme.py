"""The parts of README.md that are told by the code itself: `python -m tests.readme` writes them anew."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stream_app.settings import Settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PACKAGES = ("stream_app", "models", "export")
BESIDE = {
    "tests/": "mirrors the tree; `integration/` runs against a real Kafka, `benchmarks/` is `make bench`",
    "requirements/": "exact versions of both environments, written by `make lock`",
    "Makefile": "every verb: `make` lists them",
    "pyproject.toml": "packages, tools, and who may import whom",
}


def settings_table() -> str:
    """A row per setting: name, default, meaning."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default, meaning in _settings(Settings(), ""):
        shown = "" if default in ("", None) else f"`{_text(default)}`"
        rows.append(f"| `{name}` | {shown} | {meaning} |")
    return "\n".join(rows)


def _settings(group: Any, prefix: str) -> Iterator[tuple[str, Any, str]]:
    meanings = _meanings(type(group))
    names = (
        type(group).model_fields
        if isinstance(group, BaseModel)
        else type(group).__dataclass_fields__
    )
    for name in names:
        value = getattr(group, name)
        if isinstance(value, BaseModel) or hasattr(value, "__dataclass_fields__"):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, meanings[name]


def _meanings(group: type) -> dict[str, str]:
    """The docstrings under the fields, as they stand in the source."""
    module = sys.modules[group.__module__].__file__
    assert module is not None
    tree = ast.parse(Path(module).read_text())
    body = next(
        n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == group.__name__
    )
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def file_tree() -> str:
    """A line per source file: the first sentence of what it says of itself."""
    lines = ["| file | what lives in it |", "|---|---|"]
    for package in PACKAGES:
        paths = sorted((ROOT / package).rglob("*.py"), key=lambda p: (p.parent, p.name))
        lines += [
            f"| `{path.relative_to(ROOT)}` | {_first_sentence(path)} |"
            for path in paths
            if path.name != "__init__.py"
        ]
    lines += [f"| `{name}` | {text} |" for name, text in BESIDE.items()]
    return "\n".join(lines)


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} says nothing of itself"
    sentence = " ".join(docstring.split("\n\n")[0].split()).partition(".  ")[0]
    return sentence.removesuffix(".").replace("|", "\\|")


def current() -> str:
    """README.md as it must be."""
    text = README.read_text()
    for name, made in (("settings", settings_table()), ("files", file_tree())):
        begin, end = f"<!-- {name}: written by `python -m tests.readme` -->", f"<!-- end {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        assert rest, f"{begin} is missing in {README.name}"
        assert after, f"{end} is missing in {README.name}"
        text = f"{before}{begin}\n\n{made}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(current())
