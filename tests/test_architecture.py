"""Who may import whom, and what serving must never load."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVING_MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "stream_app").rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)
TRAINING_ONLY = {"torch", "models", "export", "onnxscript", "matplotlib"}


def _loaded_by(*modules: str) -> set[str]:
    """Top-level names in `sys.modules` of a fresh interpreter that has imported these."""
    code = (
        f"import {', '.join(modules)}; import sys; print(*{{m.split('.')[0] for m in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_import_contracts_hold() -> None:
    """The contracts are in pyproject.toml; `make imports` shows the same."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_no_contract_was_lost() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    names = {contract["name"] for contract in contracts}
    assert any(name.startswith("Offline: export -> models -> ") for name in names)
    assert names >= {
        "Inside serving, imports point one way",
        "Serving never sees torch, nor the code that trains",
        "The core does no I/O and reads no clock",
        "Adapters do not know each other",
    }


def test_the_worker_loads_no_torch_and_no_training_code() -> None:
    loaded = _loaded_by("stream_app.services.worker", "stream_app.cli.worker")
    assert "faust" in loaded, "the worker is what was imported"
    assert not loaded & TRAINING_ONLY


def test_nothing_in_serving_loads_torch_or_training_code() -> None:
    assert not _loaded_by(*SERVING_MODULES) & TRAINING_ONLY


def test_the_core_loads_numpy_and_msgspec_and_nothing_else() -> None:
    core = [name for name in SERVING_MODULES if name.startswith("stream_app.core.")]
    loaded = _loaded_by(*core) - _loaded_by("numpy", "msgspec") - set(sys.stdlib_module_names)
    assert {name for name in loaded if not name.startswith("_")} == {"stream_app"}


def test_asking_for_help_does_not_load_faust_or_onnx() -> None:
    """`nextclick --help` answers at once."""
    assert not _loaded_by("stream_app.cli") & {"faust", "onnxruntime", "pyarrow", "aiokafka"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "stream_app" / "core").glob("*.py")), ids=lambda p: p.name
)
def test_the_core_reads_no_clock_and_opens_nothing(path: Path) -> None:
    """What import contracts cannot see: calls that need no import of their own."""
    forbidden = {"open", "print", "input", "now", "utcnow", "today", "default_rng", "random"}
    tree = ast.parse(path.read_text())
    called = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    assert not called & forbidden


@pytest.mark.parametrize("name", ["serving", "dev", "training"])
def test_every_requirement_is_pinned_exactly_and_names_no_address(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 10
    for line in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;@]+( ; .+)?", line), line
        assert "://" not in line


def _pinned(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


def test_the_serving_environment_cannot_contain_torch() -> None:
    assert not _pinned("serving") & {"torch", "triton", "onnxscript", "matplotlib"}
    assert "torch" not in _pinned("dev")
    assert _pinned("training") >= _pinned("serving") | {"torch"}


def test_every_dependency_is_among_the_pins() -> None:
    """Otherwise `make lock` was forgotten."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = {
        "serving": project["dependencies"],
        "dev": [*project["dependencies"], *extras["dev"]],
        "training": [*project["dependencies"], *extras["training"]],
    }
    for name, dependencies in asked.items():
        names = {re.split(r"[\[<>=~! ]", dependency)[0].lower() for dependency in dependencies}
        assert not names - _pinned(name), f"missing in requirements/{name}.txt: run make lock"
