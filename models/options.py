"""What a training from a file is told, and the flags for it.  No torch, so that `--help` is quick."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import click

from models.config import ARCHITECTURES, PRESETS, GRU4RecConfig, ModelConfig, preset
from stream_app.core.errors import ConfigurationError
from stream_app.core.records import VIEW_ITEM
from stream_app.core.session import SessionLimits


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    data: Path
    """A click file of any format `stream_app.files.click_files` reads, benchmark sequences included."""
    checkpoint_directory: Path
    """Where the checkpoint goes; replaced when the training is done."""
    config: ModelConfig = field(default_factory=GRU4RecConfig)
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
    validation_share: float | None = None
    """Share of the training sessions, the newest, ranked after every epoch instead of learned; None: none."""
    patience: int | None = None
    """Epochs in a row that may be no better; None: any number."""
    item2vec_start: bool = False
    """Begin with item2vec's vectors instead of random ones."""
    second_stage: bool = False
    """Learn a ranker over the candidates of model, past sessions and statistics, too."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ConfigurationError(f"--test-share {self.test_share}: write a share, e.g. 0.1")
        if self.holdout_days is not None and self.holdout_days <= 0:
            raise ConfigurationError(f"--holdout-days {self.holdout_days}: write days, e.g. 1")
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise ConfigurationError(
                f"--validation-share {self.validation_share}: write a share, e.g. 0.1"
            )
        if self.patience is not None and self.validation_share is None:
            raise ConfigurationError("--patience needs --validation-share, e.g. 0.1")

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
    "epochs": "Passes over the sessions.",
    "seed": "Same seed, same weights.",
    "precision": "Of matrix products.",
    "units": "Hidden units (per layer), and numbers of an item's vector.",
    "n_sample": "Extra negatives per step.",
    "sample_alpha": "Negatives by support ** alpha.",
    "learning_rate": "Step size: Adagrad's (gru4rec), Adam's highest (cosine-gru).",
    "cell": "Recurrent cell.",
    "layers": "Recurrent layers.",
    "embedding": "How clicked items enter.",
    "loss": "Loss.",
    "batch_size": "Sessions side by side.",
    "dropout_embedding": "Dropout on item vectors.",
    "dropout_hidden": "Dropout on hidden states.",
    "momentum": "Momentum of the steps.",
    "bpreg": "BPR-max: score regularisation.",
    "elu_param": "BPR-max: ELU on scores; 0 linear.",
    "logq": "Cross-entropy: sampling correction.",
    "history_items": "Last clicks that every score looks at again.",
    "temperature": "Cosines are divided by it.",
    "batch_clicks": "Next clicks per step.",
    "session_clicks_max": "Last clicks learned of a session.",
    "dropout_items": "Dropout on clicked items' vectors.",
    "warm_up": "Share of the training in which the step size rises.",
}
"""Flags of hyper-parameters; each says by itself which networks know it."""


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Flags of a training; the command is called with `options: TrainingOptions` for all of them."""

    @wraps(command)
    def run(*args: Any, **flags: Any) -> Any:
        changes = {name: flags.pop(name) for name in _HELP}
        config = _config(
            flags.pop("model"),
            flags.pop("preset"),
            {name: value for name, value in changes.items() if value is not None},
        )
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
            validation_share=ours["validation_share"],
            patience=ours["patience"],
            item2vec_start=ours["item2vec_start"],
            second_stage=ours["second_stage"],
        )
        return command(*args, options=options, **flags)

    decorated: Callable[..., Any] = run
    for flag in reversed((*_flags(), *_config_flags())):
        decorated = flag(decorated)
    return decorated


_OURS: Final = (
    "data", "out", "format", "columns", "test_share", "holdout_days", "event_types", "report",
    "resume", "threads", "validation_share", "patience", "item2vec_start", "second_stage",
)  # fmt: skip
_VALIDATION_HELP: Final = (
    "Rank the newest share of the training sessions after every epoch; the best is kept."
)
_SECOND_STAGE_HELP: Final = (
    "Train once more on the oldest nine tenths, and learn a second stage on the rest."
)
_PATIENCE_HELP: Final = "With it: stop after so many epochs in a row that were no better."


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
            "--model",
            type=click.Choice(tuple(ARCHITECTURES)),
            default="gru4rec",
            show_default=True,
            help="Kind of network.",
        ),
        click.option("--item2vec-start", is_flag=True, help="Begin with item2vec's vectors."),
        click.option("--second-stage", is_flag=True, help=_SECOND_STAGE_HELP),
        click.option("--validation-share", type=float, help=_VALIDATION_HELP),
        click.option("--patience", type=click.IntRange(min=0), help=_PATIENCE_HELP),
        click.option(
            "--preset",
            type=click.Choice(sorted(PRESETS), case_sensitive=False),
            help="gru4rec: published parameters to start from; flags below change them.",
        ),
    ]


def _config_flags() -> list[Callable[..., Any]]:
    flags = []
    for name, text in _HELP.items():
        known = {
            architecture: getattr(kind(), name)
            for architecture, kind in ARCHITECTURES.items()
            if name in kind.__struct_fields__
        }
        hint = next(
            get_type_hints(kind)[name]
            for architecture, kind in ARCHITECTURES.items()
            if architecture in known
        )
        choices = get_args(hint) if get_origin(hint) is not None else ()
        flags.append(
            click.option(
                f"--{name.replace('_', '-')}",
                name,
                type=click.Choice(choices) if choices else hint,
                default=None,
                help=f"{text} [{_defaults(known)}]",
            )
        )
    return flags


def _defaults(known: dict[str, object]) -> str:
    """known: default by architecture, of those that have the hyper-parameter."""
    if len(known) == len(ARCHITECTURES):
        if len(set(known.values())) == 1:
            return f"default: {next(iter(known.values()))}"
        return "default: " + ", ".join(f"{value} ({name})" for name, value in known.items())
    (name, value), *_ = known.items()
    return f"{name}; default: {value}"


def _config(architecture: str, base: str | None, changes: dict[str, object]) -> ModelConfig:
    config: ModelConfig = ARCHITECTURES[architecture]()
    if base is not None:
        config = preset(base)
        if architecture != config.architecture:
            raise ConfigurationError(
                f"--preset {base} is of {config.architecture}: leave it out with --model {architecture}"
            )
    foreign = sorted(set(changes) - set(config.__struct_fields__))
    if foreign:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise ConfigurationError(f"--model {architecture} does not know {flags}: leave it out")
    return config.changed(**changes)


def _mapping(assignments: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for text in assignments:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise ConfigurationError(f"--column {text}: write OURS=THEIRS, e.g. item_id=sku")
        mapping[ours.strip()] = theirs.strip()
    return mapping
