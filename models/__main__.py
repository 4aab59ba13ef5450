"""`python -m models --data FILE --out DIRECTORY`: a checkpoint alone, where `nextclick train` also exports."""

import sys

import click

from models.options import TrainingOptions, require_torch, training_options
from stream_app.core.errors import NextclickError


@click.command()
@training_options
def train(options: TrainingOptions) -> None:
    """Train a network on a click file and rank its held-out part beside popularity and item-kNN."""
    require_torch()
    from models.training_run import run_training  # noqa: PLC0415 - torch is loaded when needed

    run_training(options)


if __name__ == "__main__":
    try:
        train()
    except NextclickError as error:
        click.echo(f"nextclick: {error}", err=True)
        sys.exit(error.exit_status)
