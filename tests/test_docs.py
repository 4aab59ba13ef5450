"""What is promised in prose is there, and what is there is documented."""

import ast
import doctest
import importlib
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stream_app.cli import COMMANDS, OFFLINE_GROUP, program
from stream_app.settings import Settings, known_names
from tests import doc_sessions, site_links
from tests.reference import metrics, pages
from tests.reference import settings as settings_page

ROOT = Path(__file__).parents[1]
MARKDOWN = sorted(
    path
    for folder in (
        ROOT,
        *(ROOT / name for name in ("stream_app", "models", "export", "deploy", "docs")),
    )
    for path in (folder.rglob("*.md") if folder.name in ("docs", "deploy") else folder.glob("*.md"))
)
MAKEFILE = (ROOT / "Makefile").read_text()
PHONY = set(re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, re.MULTILINE))
CORE = sorted(path.stem for path in (ROOT / "stream_app" / "core").glob("[a-z]*.py"))


def _help_of_make() -> str:
    done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_alone_lists_every_target_with_what_it_does() -> None:
    listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.+)$", _help_of_make(), re.MULTILINE))
    assert listed.keys() == PHONY
    assert {"setup", "check", "test", "demo", "retrain", "help"} <= PHONY


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_and_command_in_prose_exists(path: Path) -> None:
    code = "\n".join(
        re.findall(r"`[^`]+`|^```.*?^```|^ {4}.+", path.read_text(), re.MULTILINE | re.DOTALL)
    )
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code)) <= PHONY
    known = {*COMMANDS, *(point.name for point in entry_points(group=OFFLINE_GROUP))}
    assert set(re.findall(r"\bnextclick ([a-z][a-z-]+)\b(?![=.])", code)) <= known


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_in_prose_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("package", ["stream_app", "models", "export"])
def test_each_package_tells_its_decisions(package: str) -> None:
    text = (ROOT / package / "DESIGN.md").read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) > 10


def _documented_attributes(path: Path) -> set[tuple[str, str]]:
    """(class, attribute) of every attribute with a docstring below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found.add((node.name, field.target.id))
    return found


def test_every_setting_is_explained_where_it_is_declared() -> None:
    files = (ROOT / "stream_app" / "settings.py", ROOT / "stream_app" / "core" / "session.py")
    documented = {pair for path in files for pair in _documented_attributes(path)}
    for setting in known_names():
        owner: object = Settings()
        *groups, name = setting.split(".")
        for group in groups:
            owner = getattr(owner, group)
        assert (type(owner).__name__, name) in documented, f"{setting} has no docstring"


def _walk(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name)
        if isinstance(command, click.Group):
            yield from _walk(command, (*names, name))


EVERY_COMMAND = list(_walk(program))


def _help(*names: str) -> str:
    result = CliRunner().invoke(program, [*names, "--help"])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_training_commands_are_found_where_torch_is_not() -> None:
    assert {("train",), ("export",), ("retrain",), ("refresh",)} <= set(EVERY_COMMAND)


@pytest.mark.parametrize("names", EVERY_COMMAND, ids=" ".join)
def test_every_command_explains_itself_with_an_example(names: tuple[str, ...]) -> None:
    text = _help(*names)
    own = f"nextclick {' '.join(names)}"
    # A subcommand's example may stand with its group, where the commands are seen together.
    above = _help(*names[:-1]) if len(names) > 1 else ""
    assert any(line.strip().startswith(own) for line in f"{text}\n{above}".splitlines()), text
    first = text.split("\n\n")[1].strip()
    assert first.endswith((".", ")")), f"the first line says in a sentence what it does: {first!r}"


def test_the_program_lists_every_command_with_one_line() -> None:
    text = _help()
    for name in (*COMMANDS, *(point.name for point in entry_points(group=OFFLINE_GROUP))):
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE), name


@pytest.mark.parametrize("module", CORE)
def test_the_examples_in_the_cores_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"stream_app.core.{module}"))
    assert result.failed == 0


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert re.search(rf"^## \[{re.escape(version[1])}\] - ", text, re.MULTILINE)


@pytest.mark.parametrize("path", pages.current(), ids=lambda path: path.name)
def test_the_reference_is_what_the_code_says(path: Path) -> None:
    assert path.exists(), "run: python -m tests.readme"
    assert path.read_text() == pages.current()[path], "run: python -m tests.readme"


JOBS = ("retrain", "refresh")


def test_the_reference_leaves_no_metric_out() -> None:
    """Whatever is given to Prometheus by a name of ours is told, wherever it is declared."""
    declared = set()
    for path in (ROOT / "stream_app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                # Both jobs that train have the same metrics, each under its own name.
                told_as = ast.unparse(node.args[0]).strip("'").removeprefix("f'")
                names = [told_as.replace("{prefix}", f"nextclick_{job}_") for job in JOBS]
                declared |= {n for n in names if re.fullmatch(r"nextclick_[a-z0-9_]+", n)}
    told = {i.name for _, _, found in metrics.every_process() for i in found}
    assert declared
    assert declared == {name.removesuffix("_total") for name in told}


def test_the_reference_leaves_no_setting_out() -> None:
    assert [setting.name for setting in settings_page.every_setting()] == list(known_names())


@pytest.mark.parametrize("path", pages.current(), ids=lambda path: path.name)
def test_the_reference_explains_everything_it_lists(path: Path) -> None:
    for table in re.split(r"\n\n", pages.current()[path]):
        if table.partition("\n")[0].endswith("| meaning |"):
            empty = [row for row in table.splitlines() if row.endswith("|  |")]
            assert not empty, "write a docstring below the field, or a help text"


def test_every_page_is_in_the_navigation() -> None:
    told = set(re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert there - {"DESIGN.md"} == told - {"DESIGN.md"}


def test_what_a_page_says_is_compared_with_what_is_printed() -> None:
    result = doctest.testmod(doc_sessions)
    assert result.attempted == 3
    assert result.failed == 0


def test_links_that_lead_nowhere_and_what_is_loaded_from_elsewhere_are_found(
    tmp_path: Path,
) -> None:
    (tmp_path / "index.html").write_text(
        '<h2 id="here">x</h2><a href="#here">a</a><a href="b.html#there">b</a><a href="b.html">c</a>'
        '<a href="gone.html">d</a><a href="https://example.org/a">e</a><a href="https://nowhere">f</a>'
        '<script src="https://example.org/s.js"></script>'
    )
    (tmp_path / "b.html").write_text('<h2 id="other">x</h2>')
    assert list(site_links.problems(tmp_path)) == [
        "index.html: loads https://example.org/s.js from elsewhere: keep a copy in docs/",
        "index.html: b.html#there: that page has no such part",
        "index.html: gone.html leads nowhere",
        "index.html: https://nowhere is not an address",
    ]
