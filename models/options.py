"""What a training from a file is told, and the flags for it.  No torch, so that `--help` is quick."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import click

from models.config import PRESETS, GRU4RecConfig, preset
from stream_app.core.errors import ConfigurationError
from stream_app.core.records import VIEW_ITEM
from stream_app.core.session import SessionLimits


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    data: Path
    """A click file of any format `stream_app.files.click_files` reads, benchmark sequences included."""
    checkpoint_directory: Path
    """Where the checkpoint goes; replaced when the training is done."""
    config: GRU4RecConfig = field(default_factory=GRU4RecConfig)
    format: str | None = None
    """The file's format; None: told by its content."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping, ours to the file's, e.g. {"item_id": "sku"}."""
    test_share: float = 0.1
    """Share of the sessions, the newest, held out.  Benchmark sequences bring their own test part."""
    holdout_days: float | None = None
    """Hold out the last so many days instead."""
    event_types: tuple[str, ...] = (VIEW_ITEM,)
    """Events that are clicks; others are passed over, as the worker passes them over."""
    limits: SessionLimits = field(default_factory=SessionLimits)
    report: Path | None = None
    """JSON written here: {data, targets, models, events_per_second, seconds, ...}."""
    resume: bool = False
    """Go on from where an earlier, interrupted training of the same got to."""
    threads: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ConfigurationError(f"--test-share {self.test_share}: write a share, e.g. 0.1")
        if self.holdout_days is not None and self.holdout_days <= 0:
            raise ConfigurationError(f"--holdout-days {self.holdout_days}: write days, e.g. 1")

    @property
    def resume_directory(self) -> Path:
        """Beside the checkpoint; it is there only while a training is unfinished."""
        return self.checkpoint_directory.with_name(f"{self.checkpoint_directory.name}.unfinished")


def require_torch() -> None:
    """Raises `ConfigurationError` where the training packages are not installed."""
    if find_spec("torch") is None:
        raise ConfigurationError(
            "training needs PyTorch, which is not installed here: "
            'pip install "nextclick[training]" (serving does not need it)'
        )


_HELP: Final = {
    "cell": "Recurrent cell.",
    "layers": "Recurrent layers.",
    "units": "Hidden units per layer.",
    "embedding": "How clicked items enter.",
    "loss": "Loss.",
    "batch_size": "Sessions side by side.",
    "n_sample": "Extra negatives per step.",
    "sample_alpha": "Negatives by support ** alpha.",
    "dropout_embedding": "Dropout on item vectors.",
    "dropout_hidden": "Dropout on hidden states.",
    "learning_rate": "Adagrad's step size.",
    "momentum": "Momentum of the steps.",
    "bpreg": "BPR-max: score regularisation.",
    "elu_param": "BPR-max: ELU on scores; 0 linear.",
    "logq": "Cross-entropy: sampling correction.",
    "epochs": "Passes over the sessions.",
    "seed": "Same seed, same weights.",
    "precision": "Of matrix products.",
}


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Flags of a training; the command is called with `options: TrainingOptions` for all of them."""

    @wraps(command)
    def run(*args: Any, **flags: Any) -> Any:
        changes = {name: flags.pop(name) for name in _HELP}
        base = flags.pop("preset")
        config = preset(base) if base else GRU4RecConfig()
        config = config.changed(**{k: v for k, v in changes.items() if v is not None})
        ours = {name: flags.pop(name) for name in _OURS}
        options = TrainingOptions(
            data=ours["data"],
            checkpoint_directory=ours["out"],
            config=config,
            format=ours["format"],
            columns=_mapping(ours["columns"]),
            test_share=ours["test_share"],
            holdout_days=ours["holdout_days"],
            event_types=ours["event_types"] or (VIEW_ITEM,),
            report=ours["report"],
            resume=ours["resume"],
            threads=ours["threads"],
        )
        return command(*args, options=options, **flags)

    decorated: Callable[..., Any] = run
    for flag in reversed((*_flags(), *_config_flags())):
        decorated = flag(decorated)
    return decorated


_OURS: Final = (
    "data", "out", "format", "columns", "test_share", "holdout_days", "event_types", "report",
    "resume", "threads",
)  # fmt: skip


def _flags() -> list[Callable[..., Any]]:
    file, directory = click.Path(path_type=Path), click.Path(path_type=Path, file_okay=False)
    return [
        click.option("--data", type=file, required=True, help="Click file, any known format."),
        click.option("--out", type=directory, required=True, help="Directory for the model."),
        click.option("--format", default=None, help="The file's format [default: by its content]."),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="OURS=THEIRS",
            help="A column's name in the file, e.g. item_id=sku.",
        ),
        click.option(
            "--test-share", default=0.1, show_default=True, help="Newest sessions held out."
        ),
        click.option("--holdout-days", type=float, help="Hold out the last days instead."),
        click.option(
            "--event-type",
            "event_types",
            multiple=True,
            help=f"Events that are clicks [default: {VIEW_ITEM}].",
        ),
        click.option("--report", type=file, help="Write the figures as JSON."),
        click.option("--resume", is_flag=True, help="Go on with an interrupted training."),
        click.option("--threads", default=1, show_default=True, help="Threads of torch."),
        click.option(
            "--preset",
            type=click.Choice(sorted(PRESETS), case_sensitive=False),
            help="Published parameters to start from; flags below change them.",
        ),
    ]


def _config_flags() -> list[Callable[..., Any]]:
    defaults, hints = GRU4RecConfig(), get_type_hints(GRU4RecConfig)
    flags = []
    for name, text in _HELP.items():
        kind = hints[name]
        choices = get_args(kind) if get_origin(kind) is not None else ()
        flags.append(
            click.option(
                f"--{name.replace('_', '-')}",
                name,
                type=click.Choice(choices) if choices else kind,
                default=None,
                help=f"{text} [default: {getattr(defaults, name)}]",
            )
        )
    return flags


def _mapping(assignments: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for text in assignments:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise ConfigurationError(f"--column {text}: write OURS=THEIRS, e.g. item_id=sku")
        mapping[ours.strip()] = theirs.strip()
    return mapping
