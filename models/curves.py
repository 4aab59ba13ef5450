"""A training as a picture: the loss, and the quality on the validation part, by epoch."""

import io

from models.checkpoint import TrainingRecord


def learning_curves(record: TrainingRecord) -> bytes:
    """PNG.  Without a validation part the loss alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    validated = bool(record.epoch_recalls)
    figure = Figure(figsize=(10 if validated else 5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    axes[0].plot(_epochs(record.epoch_losses), record.epoch_losses, marker="o", color="#3b6ea5")
    axes[0].set(title="loss per next click", xlabel="epoch")
    if validated:
        for values, label, colour in (
            (record.epoch_recalls, "Recall@20", "#3b6ea5"),
            (record.epoch_mrrs, "MRR@20", "#c98a2b"),
        ):
            axes[1].plot(_epochs(values), values, marker="o", color=colour, label=label)
        axes[1].axvline(record.best_epoch, color="#999999", linestyle=":", label="kept")
        axes[1].set(title="validation", xlabel="epoch", ylim=(0, None))
        axes[1].legend(frameon=False)
    for each in axes:
        each.xaxis.get_major_locator().set_params(integer=True)
        each.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _epochs(values: tuple[float, ...]) -> range:
    return range(1, len(values) + 1)
