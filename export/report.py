"""What a training run leaves for people: a page of Markdown and a plot."""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from export.artifact import TrainingFacts
from export.gate import Verdict
from export.parity import ParityReport
from export.second_stage import SecondStageReport
from stream_app.core.metrics import RankingQuality


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as `report.json` holds it and `report.md` tells it."""

    model_version: str
    result: str
    """published or gated."""
    verdict: Verdict
    quality: dict[str, RankingQuality]
    training: TrainingFacts
    held_out_from_ms: int
    n_items: int
    new_items: int
    """Not in the vocabulary of the live model."""
    retired_items: int
    """Of the live model, and not clicked in the whole window."""
    epoch_losses: tuple[float, ...]
    events_per_second: float
    parity: ParityReport
    step_seconds: dict[str, float]
    second_stage: SecondStageReport | None = None


def markdown(report: RunReport) -> str:
    training = report.training
    origin = f"the weights of `{training.started_from}`" if training.started_from else "scratch"
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.step_seconds.items())
    return f"""# Model `{report.model_version}`: {report.result}

{"Passed" if report.verdict.passed else "Refused"}: {"; ".join(report.verdict.reasons)}.

{_quality_table(report.quality)}

Ranked against the whole catalogue at {_targets(report.quality):,} next clicks of sessions that start at
{_moment(report.held_out_from_ms)} or later; ties count against the ranker.

![loss and quality](report.png)

- trained from {origin} on {training.sessions:,} sessions ({training.clicks:,} clicks),
  {_moment(training.first_event_ms)} to {_moment(training.last_event_ms)}
- {training.epochs} epochs in {training.seconds:.1f} s, {report.events_per_second:,.0f} next clicks/s; loss {_losses(report.epoch_losses)}
- {report.n_items:,} items, {report.new_items:,} new, {report.retired_items:,} retired (no click in the window)
- torch against ONNX Runtime: state {report.parity.step:.1e} after a step, {report.parity.chain:.1e} after 30, score {report.parity.score:.1e} (relative), {report.parity.recall:.4f} of the best 20 listed
- {_second_stage(report.second_stage)}
- {steps}
"""


def _second_stage(found: SecondStageReport | None) -> str:
    if found is None:
        return "one stage"
    one, two = found.one_stage, found.two_stages
    verdict = "in the bundle" if found.is_better else "left out, for it is no better"
    return (
        f"second stage: Recall@20 {one.recall_20:.4f} -> {two.recall_20:.4f}, MRR@20 {one.mrr_20:.4f} -> "
        f"{two.mrr_20:.4f} on the newest {one.targets:,} of {found.lists:,} next clicks, "
        f"{found.candidates_share:.1%} of them among its candidates, co-occurrence alone "
        f"{found.statistics.recall_20:.4f} / {found.statistics.mrr_20:.4f}; {verdict}"
    )


def plot(epoch_losses: Sequence[float], quality: Mapping[str, RankingQuality]) -> bytes:
    """PNG: the loss by epoch, and Recall@20 and MRR@20 of every contender."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(epoch_losses) + 1)
    left.plot(epochs, epoch_losses, marker="o", color="#3b6ea5")
    left.set(title="loss per next click", xlabel="epoch")
    left.set_xticks(list(epochs))
    names = list(quality)
    for offset, attribute, label, colour in (
        (-0.2, "recall_20", "Recall@20", "#3b6ea5"),
        (0.2, "mrr_20", "MRR@20", "#c98a2b"),
    ):
        heights = [getattr(quality[name], attribute) for name in names]
        places = [place + offset for place in range(len(names))]
        bars = right.bar(places, heights, width=0.38, label=label, color=colour)
        right.bar_label(bars, fmt="%.3f", fontsize=8)
    right.set(title="held-out quality")
    right.set_xticks(range(len(names)), names)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _quality_table(quality: Mapping[str, RankingQuality]) -> str:
    lines = [
        "| ranker | Recall@5 | Recall@10 | Recall@20 | MRR@20 | cold targets |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {q.recall_5:.4f} | {q.recall_10:.4f} | {q.recall_20:.4f} | {q.mrr_20:.4f} | {q.cold_targets:,} |"
        for name, q in quality.items()
    ]
    return "\n".join(lines)


def _targets(quality: Mapping[str, RankingQuality]) -> int:
    return max((q.targets for q in quality.values()), default=0)


def _losses(losses: Sequence[float]) -> str:
    return " -> ".join(f"{loss:.4f}" for loss in losses)


def _moment(ms: int | None) -> str:
    if ms is None:
        return "no clock"
    return f"{datetime.fromtimestamp(ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"
