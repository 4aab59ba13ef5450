"""The environment for trainings: found, made step by step, or given up with a reason."""

import os
import sys
import time
from pathlib import Path

import pytest

from stream_app.demo import training_environment
from stream_app.demo.children import Children
from stream_app.demo.training_environment import (
    TrainingEnvironment,
    checkout,
    default_directory,
)


@pytest.fixture(autouse=True)
def no_torch_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_environment, "_can_train_here", lambda: False)


def make_interpreter(directory: Path, status: int) -> Path:
    """Something that answers "can you import these?" with `status`."""
    python = directory / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexit {status}\n")
    python.chmod(0o755)
    return python


def settle(environment: TrainingEnvironment) -> None:
    deadline = time.monotonic() + 20
    while environment.is_pending:
        assert time.monotonic() < deadline
        environment.tick()
        time.sleep(0.01)


def test_an_environment_that_can_train_is_taken_as_it_is(tmp_path: Path) -> None:
    python = make_interpreter(tmp_path / "env", 0)
    with Children() as children:
        environment = TrainingEnvironment(tmp_path / "env", children, tmp_path / "log")
        environment.start()
        assert environment.python == python
        assert environment.status == ""


def test_an_unfinished_environment_is_made_anew_and_then_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo that was stopped in the middle of an installation must not train with half a torch."""
    python = make_interpreter(tmp_path / "env", 0)
    (tmp_path / "env" / ".nextclick-unfinished").touch()
    steps = [
        ("first", [sys.executable, "-c", "print('one')"]),
        ("second", [sys.executable, "-c", "import time; time.sleep(0.3); print('two')"]),
    ]
    monkeypatch.setattr(training_environment, "_steps", lambda _: steps)
    with Children() as children:
        environment = TrainingEnvironment(tmp_path / "env", children, tmp_path / "log")
        environment.start()
        seen = set()
        while environment.is_pending:
            environment.tick()
            seen.add(environment.status.partition(" (")[0])
            time.sleep(0.01)
    assert {"first", "second"} <= seen
    assert environment.python == python
    assert (tmp_path / "log").read_text().split() == ["one", "two"]
    assert not (tmp_path / "env" / ".nextclick-unfinished").exists()


def test_a_failed_step_is_said_with_the_end_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "print('no route to the index'); raise SystemExit(2)"]
    steps = [("installing torch", command), ("never", ["/bin/false"])]
    monkeypatch.setattr(training_environment, "_steps", lambda _: list(steps))
    with Children() as children:
        environment = TrainingEnvironment(tmp_path / "env", children, tmp_path / "log")
        environment.start()
        settle(environment)
    assert environment.failure == "installing torch failed:\nno route to the index"
    assert (tmp_path / "env" / ".nextclick-unfinished").exists(), "so that the next demo mends it"


def test_a_full_disk_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_environment, "DISK_BYTES", 10**18)
    with Children() as children:
        environment = TrainingEnvironment(tmp_path / "env", children, tmp_path / "log")
        environment.start()
    assert environment.failure is not None
    assert "--training-env" in environment.failure


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Children() as children:
        environment = TrainingEnvironment(tmp_path / "file" / "env", children, tmp_path / "log")
        environment.start()
    assert environment.failure is not None
    assert "cannot be written" in environment.failure


def test_a_checkout_installs_its_own_pins_and_itself(tmp_path: Path) -> None:
    """These tests run from a checkout."""
    root = checkout()
    assert root is not None
    steps = dict(training_environment._steps(tmp_path / "env"))
    assert str(root / "requirements" / "training.txt") in steps["installing torch"]
    assert steps["installing nextclick beside torch"][-2:] == ["-e", str(root)]
    assert os.path.basename(steps["making an environment for torch"][-1]) == "env"  # noqa: PTH119


def test_without_a_checkout_the_environment_lies_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_directory(Path("data")) == Path("data/training-env")
    (tmp_path / ".venv-training").mkdir()
    assert default_directory(Path("data")) == tmp_path / ".venv-training"
