"""What the code tells of itself, in README.md and docs/reference: `python -m tests.readme` writes it anew."""

import ast
from pathlib import Path

from tests.reference import pages

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PACKAGES = ("stream_app", "models", "export")
BESIDE = {
    "tests/": "mirrors the tree; `integration/` runs against a real Kafka, `benchmarks/` is `make bench`, "
    "`chaos/` is `make chaos`: real faults, counted losses",
    "requirements/": "exact versions of both environments, written by `make lock`",
    "Makefile": "every verb: `make` lists them",
    "pyproject.toml": "packages, tools, and who may import whom",
}


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
    begin, end = "<!-- files: written by `python -m tests.readme` -->", "<!-- end files -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    assert rest, f"{begin} is missing in {README.name}"
    assert after, f"{end} is missing in {README.name}"
    return f"{before}{begin}\n\n{file_tree()}\n\n{end}{after}"


if __name__ == "__main__":
    README.write_text(current())
    pages.write()
