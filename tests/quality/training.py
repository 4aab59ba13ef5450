"""What `make quality` trains, and how: the one place that knows the flags of `nextclick train`."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = Path(".venv-training/bin/nextclick")


@dataclass(frozen=True)
class Training:
    """One configured model of one data set."""

    data_set: str
    model: str
    flags: tuple[str, ...]
    minutes: int
    """About so long on one core that does nothing else."""
    by_default: bool = False

    @property
    def name(self) -> str:
        return f"{self.data_set}:{self.model}"


_COSINE: Final = ("--model", "cosine-gru", "--epochs", "5")

TRAININGS: Final = (
    Training("yoochoose_apr2014", "gru4rec", ("--epochs", "5"), 2, by_default=True),
    Training("yoochoose_apr2014", "cosine-gru", _COSINE, 2, by_default=True),
    Training(
        "yoochoose1_64_seq", "gru4rec", ("--preset", "rsc15", "--epochs", "4"), 4, by_default=True
    ),
    Training("yoochoose1_64_seq", "cosine-gru", _COSINE, 4, by_default=True),
    Training("diginetica_seq", "gru4rec", ("--preset", "diginetica", "--epochs", "5"), 25),
    Training(
        "diginetica_seq", "cosine-gru", (*_COSINE, "--dropout-items", "0.3"), 8, by_default=True
    ),
)


class TrainingFailedError(Exception):
    pass


def chosen(names: str) -> list[Training]:
    """`default`, `all`, `none`, or SET:MODEL and SET, comma-separated.  Raises `ValueError`."""
    if names == "default":
        return [training for training in TRAININGS if training.by_default]
    if names == "all":
        return list(TRAININGS)
    if names == "none":
        return []
    wanted = names.split(",")
    for name in wanted:
        if not any(name in (training.name, training.data_set) for training in TRAININGS):
            known = ", ".join(training.name for training in TRAININGS)
            raise ValueError(f"{name} is not configured; there are {known}")
    return [t for t in TRAININGS if t.name in wanted or t.data_set in wanted]


def train(training: Training, data: Path, out: Path, *, seed: int) -> Path:
    """The bundle directory; one that is there already is taken as it is.

    Raises `TrainingFailedError` with the end of what the training said.
    """
    if (out / "manifest.json").exists():
        return out
    command = command_of(training, data, out, seed=seed)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TrainingFailedError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
    return out


def command_of(training: Training, data: Path, out: Path, *, seed: int) -> list[str]:
    return [
        str(PROGRAM),
        "train",
        *("--data", str(data), "--out", str(out), "--seed", str(seed)),
        *training.flags,
    ]


def costs() -> str:
    """What each configured training takes, for --help."""
    return "; ".join(
        f"{t.name} {t.minutes} min{' (default)' if t.by_default else ''}" for t in TRAININGS
    )
