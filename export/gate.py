"""May a candidate replace the live model?  Pure: facts in, verdict with reasons out."""

import math
from collections.abc import Collection
from typing import Final

import msgspec

from stream_app.core.metrics import RankingQuality

TARGETS_MIN: Final = 30
"""Fewer held-out next clicks than this say nothing about any model."""
LOST_ITEMS_SHARE_MAX: Final = 0.5
"""However good the reasons, a vocabulary that halves at once is a broken click log."""


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A model before the gate."""

    version: str
    quality: RankingQuality
    """On the held-out slice, the same for all contenders."""
    items: frozenset[str]
    """Ids of its vocabulary."""
    weights_are_finite: bool = True


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    passed: bool
    reasons: tuple[str, ...]
    """Why not; or, where it passed, what it was compared with."""


def judge(
    candidate: Contender,
    live: Contender | None,
    popularity: RankingQuality,
    *,
    recent_popularity: RankingQuality | None = None,
    statistics: tuple[RankingQuality, RankingQuality] | None = None,
    retired_items: Collection[str] = (),
    tolerance: float,
) -> Verdict:
    """Let the candidate through only if nothing speaks against it.

    statistics: on the clicks that the second stage was judged on, co-occurrence alone and what the candidate's
    bundle will answer; None where there were too few.

    Against it speaks: a NaN in weights or quality; fewer than 30 targets; a list of another set of
    targets; being no better than popularity over the window; where no model is live, answers that are, beyond
    noise, worse than co-occurrence's, which answers then, or, where there were too few clicks to tell, a model
    no better than recent popularity; Recall@20 or MRR@20 further below the live model's than `allowed_loss`; items of the live model that are gone and not among `retired_items` (those nobody
    clicked in the whole training window); more than half of them gone at once.
    """
    against = [
        *_broken(candidate, (popularity, recent_popularity or popularity), live),
        *_lost_items(candidate, live, retired_items),
        *_no_better_than_counting(
            candidate.quality, live, popularity, recent_popularity if statistics is None else None
        ),
        *_worse_than_statistics(live, statistics),
        *_worse_than_live(candidate.quality, live, tolerance),
    ]
    if against:
        return Verdict(passed=False, reasons=tuple(against))
    return Verdict(passed=True, reasons=tuple(_comparisons(candidate.quality, live, popularity)))


def allowed_loss(live: float, targets: int, tolerance: float) -> float:
    """How far below the live model's Recall@20 (or MRR@20) a candidate may be: what noise explains.

    `tolerance` times the live figure, or its standard error on so many next clicks if that is more: on
    a small slice two equal models differ by that much, and a gate that refuses equals keeps an ageing
    model live.  From some thousand next clicks on, `tolerance` is the larger.
    """
    share = min(max(live, 0.0), 1.0)
    return max(tolerance * live, math.sqrt(share * (1 - share) / max(targets, 1)))


def _broken(
    candidate: Contender, baselines: Collection[RankingQuality], live: Contender | None
) -> list[str]:
    against = []
    if not candidate.weights_are_finite:
        against.append("its weights hold NaN or infinity")
    quality = candidate.quality
    measured = (quality.recall_5, quality.recall_10, quality.recall_20, quality.mrr_20)
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in measured):
        against.append(f"its quality is no number between 0 and 1: {measured}")
    if quality.targets < TARGETS_MIN:
        against.append(f"only {quality.targets} held-out next clicks, {TARGETS_MIN} are needed")
    others = [baseline.targets for baseline in baselines]
    if live is not None:
        others.append(live.quality.targets)
    if any(targets != quality.targets for targets in others):
        against.append(f"judged on {quality.targets} next clicks, the others on {others}")
    return against


def _lost_items(
    candidate: Contender, live: Contender | None, retired_items: Collection[str]
) -> list[str]:
    if live is None:
        return []
    lost = live.items - candidate.items
    unexplained = lost.difference(retired_items)
    against = []
    if unexplained:
        some = ", ".join(sorted(unexplained)[:3])
        against.append(
            f"{len(unexplained)} items of the live model are missing though they are still clicked ({some})"
        )
    if len(lost) > LOST_ITEMS_SHARE_MAX * len(live.items):
        against.append(f"{len(lost)} of the live model's {len(live.items)} items are gone at once")
    return against


def _no_better_than_counting(
    quality: RankingQuality,
    live: Contender | None,
    popularity: RankingQuality,
    recent_popularity: RankingQuality | None,
) -> list[str]:
    """A model must beat what is there without one; one that is live already is compared with itself."""
    baselines = {"popularity": popularity}
    if live is None and recent_popularity is not None:
        baselines["recent popularity"] = recent_popularity
    # "not above" and not "below", so that a NaN on either side is refused as well.
    return [
        f"Recall@20 {quality.recall_20:.4f} is no better than {name}'s {baseline.recall_20:.4f}"
        for name, baseline in baselines.items()
        if not quality.recall_20 > baseline.recall_20
    ]


def _worse_than_statistics(
    live: Contender | None, statistics: tuple[RankingQuality, RankingQuality] | None
) -> list[str]:
    if live is not None or statistics is None:
        return []
    counted, served = statistics
    allowed = allowed_loss(counted.recall_20, counted.targets, 0.0)
    if served.recall_20 >= counted.recall_20 - allowed:
        return []
    against = (
        f"Recall@20 {served.recall_20:.4f} of its answers is more than {allowed:.4f} below co-occurrence's "
        f"{counted.recall_20:.4f}, which answers without a model"
    )
    return [against]


def _worse_than_live(
    quality: RankingQuality, live: Contender | None, tolerance: float
) -> list[str]:
    if live is None:
        return []
    against = []
    for name, ours, theirs in (
        ("Recall@20", quality.recall_20, live.quality.recall_20),
        ("MRR@20", quality.mrr_20, live.quality.mrr_20),
    ):
        allowed = allowed_loss(theirs, quality.targets, tolerance)
        if not ours >= theirs - allowed:
            against.append(
                f"{name} {ours:.4f} is more than {allowed:.4f} below the live model's {theirs:.4f}"
            )
    return against


def _comparisons(
    quality: RankingQuality, live: Contender | None, popularity: RankingQuality
) -> list[str]:
    lines = [f"Recall@20 {quality.recall_20:.4f}, popularity {popularity.recall_20:.4f}"]
    if live is not None:
        lines.append(f"the live model {live.version} has {live.quality.recall_20:.4f}")
    else:
        lines.append("no model was live")
    return lines
