"""Next clicks learned per CPU second of one thread, in the configurations the official code was timed in.

    OMP_NUM_THREADS=1 .venv-training/bin/python -m tests.benchmarks.training_speed \
        ../shared/data/yoochoose1_64_seq/sequences.parquet
"""

import time
from pathlib import Path
from typing import Final

import click
import msgspec
import torch

from models.architectures import learner, network
from models.config import CosineGRUConfig, ModelConfig, preset
from models.torch_setup import torch_set_up
from models.training_run import load_training_data

CONFIGURATIONS: Final[dict[str, tuple[ModelConfig, int, str]]] = {
    "GRU4Rec 224 units, batch 80, BPR-max": (preset("retailrocket"), 600, "4,900"),
    "GRU4Rec 512 units, batch 128, BPR-max": (preset("diginetica"), 200, "2,700"),
    "the same, bfloat16 products": (preset("diginetica").changed(precision="bfloat16"), 200, ""),
    "GRU4Rec 100 units, batch 128, cross-entropy": (
        preset("rsc15").changed(batch_size=128),
        1_000,
        "7,500 to 12,600",
    ),
    "GRU4Rec 100 units, batch 32, cross-entropy": (preset("rsc15"), 2_000, "4,700 to 5,300"),
    "cosine GRU 128 units": (CosineGRUConfig(), 100, ""),
}
"""By name: steps to time, and what the official code learned per second of one core, on another machine."""
WARM_UP: Final = 10


class _File(msgspec.Struct):
    """As much of `TrainingOptions` as reading a file of sequences asks for."""

    data: Path


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=2, show_default=True)
def main(file: Path, rounds: int) -> None:
    """Time some hundred steps of each configuration, one after the other, `rounds` times."""
    data = load_training_data(_File(file))  # type: ignore[arg-type]
    sessions = data.train.known_only().at_least(2)
    for _ in range(rounds):
        for name, (config, n_steps, official) in CONFIGURATIONS.items():
            model = network(config, len(data.vocabulary))
            model.initialise(torch.Generator().manual_seed(config.seed))
            with torch_set_up(threads=1, half_products=config.precision == "bfloat16"):
                steps = learner(model, sessions).epoch(0)
                for _, step in zip(range(WARM_UP), steps, strict=False):
                    step()
                began, learned = time.process_time(), 0
                for _, step in zip(range(n_steps), steps, strict=False):
                    learned += step()[0]
                seconds = time.process_time() - began
            beside = f"; official {official}" if official else ""
            click.echo(f"{name}: {learned / seconds:,.0f} next clicks per CPU second{beside}")


if __name__ == "__main__":
    main()
