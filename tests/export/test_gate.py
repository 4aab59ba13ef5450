"""The gate lets through what is better and lets nothing else through."""

import math
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.gate import TARGETS_MIN, Contender, allowed_loss, judge
from stream_app.core.metrics import RankingQuality

TOLERANCE = 0.02
ITEMS = frozenset(f"item-{i}" for i in range(10))


def quality(recall: float, mrr: float | None = None, targets: int = 500) -> RankingQuality:
    mrr = recall / 2 if mrr is None else mrr
    return RankingQuality(
        targets=targets, recall_5=recall / 3, recall_10=recall / 2, recall_20=recall, mrr_20=mrr
    )


def contender(
    recall: float,
    mrr: float | None = None,
    *,
    items: frozenset[str] = ITEMS,
    targets: int = 500,
    finite: bool = True,
) -> Contender:
    return Contender(
        version="v", quality=quality(recall, mrr, targets), items=items, weights_are_finite=finite
    )


def refusal(*arguments: object, **keywords: object) -> str:
    verdict = judge(*arguments, **{"tolerance": TOLERANCE, **keywords})  # type: ignore[arg-type]
    assert not verdict.passed
    return "; ".join(verdict.reasons)


def test_a_better_candidate_passes_and_the_reasons_say_what_it_beat() -> None:
    verdict = judge(contender(0.4), contender(0.3), quality(0.1), tolerance=TOLERANCE)
    assert verdict.passed
    assert "0.4000" in verdict.reasons[0]
    assert "0.3000" in verdict.reasons[1]


def test_the_first_model_needs_to_beat_popularity_only() -> None:
    assert judge(contender(0.11), None, quality(0.1), tolerance=TOLERANCE).passed
    assert "no better than popularity" in refusal(contender(0.1), None, quality(0.1))


def test_the_first_model_must_not_answer_worse_than_co_occurrence_did() -> None:
    """Which answers until then; beyond noise, on the clicks that both were asked about."""
    counted = quality(0.4, targets=600)
    for served, passes in ((0.5, True), (0.381, True), (0.379, False)):
        both = (counted, quality(served, targets=600))
        verdict = judge(contender(0.3), None, quality(0.1), statistics=both, tolerance=TOLERANCE)
        assert verdict.passed is passes
    assert "co-occurrence" in refusal(
        contender(0.3), None, quality(0.1), statistics=(counted, quality(0.3, targets=600))
    )
    worse = (counted, quality(0.1, targets=600))
    live = judge(
        contender(0.4), contender(0.3), quality(0.1), statistics=worse, tolerance=TOLERANCE
    )
    assert live.passed, "where a model is live, that is what it is compared with"


def test_a_small_loss_against_the_live_model_is_noise_and_a_larger_one_is_not() -> None:
    live = contender(0.5, targets=5000)
    popular = quality(0.1, targets=5000)
    assert judge(contender(0.491, 0.25, targets=5000), live, popular, tolerance=TOLERANCE).passed
    assert "Recall@20" in refusal(contender(0.489, 0.25, targets=5000), live, popular)
    assert "MRR@20" in refusal(contender(0.5, 0.2, targets=5000), live, popular)


def test_on_few_targets_a_standard_error_is_noise_too() -> None:
    assert allowed_loss(0.4, 600, TOLERANCE) == pytest.approx(0.02)
    assert allowed_loss(0.4, 10_000, TOLERANCE) == pytest.approx(0.4 * TOLERANCE)
    few = quality(0.1, targets=600)
    live = contender(0.4, targets=600)
    assert judge(contender(0.381, targets=600), live, few, tolerance=TOLERANCE).passed
    assert "Recall@20" in refusal(contender(0.379, targets=600), live, few)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
@pytest.mark.parametrize("field", ["recall_5", "recall_10", "recall_20", "mrr_20"])
def test_a_quality_that_is_no_share_is_refused(field: str, value: float) -> None:
    broken = msgspec.structs.replace(contender(0.4), quality=quality(0.4))
    broken = msgspec.structs.replace(
        broken, quality=msgspec.structs.replace(broken.quality, **{field: value})
    )
    assert "no number between 0 and 1" in refusal(broken, None, quality(0.1))


def test_weights_with_nan_are_refused_however_good_the_lists() -> None:
    assert "NaN" in refusal(contender(0.9, finite=False), contender(0.1), quality(0.1))


def test_an_unmeasured_popularity_lets_nothing_through() -> None:
    assert "popularity" in refusal(contender(0.4), None, quality(math.nan))


def test_an_unmeasured_live_model_lets_nothing_through() -> None:
    assert "live model" in refusal(contender(0.4), contender(math.nan), quality(0.1))


def test_too_few_targets_decide_nothing() -> None:
    few = TARGETS_MIN - 1
    assert "30 are needed" in refusal(contender(0.4, targets=few), None, quality(0.1, targets=few))


def test_contenders_are_judged_on_the_same_targets() -> None:
    assert "judged on 500" in refusal(contender(0.4), contender(0.3, targets=499), quality(0.1))


def test_a_lost_item_needs_a_reason() -> None:
    smaller = contender(0.6, items=ITEMS - {"item-3"})
    assert "item-3" in refusal(smaller, contender(0.3), quality(0.1))
    verdict = judge(
        smaller, contender(0.3), quality(0.1), retired_items={"item-3"}, tolerance=TOLERANCE
    )
    assert verdict.passed


def test_half_the_items_are_never_lost_for_good_reasons() -> None:
    tiny = contender(0.6, items=frozenset({"item-0"}))
    assert "gone at once" in refusal(tiny, contender(0.3), quality(0.1), retired_items=ITEMS)


@dataclass(frozen=True)
class Case:
    candidate: Contender
    live: Contender | None
    popularity: RankingQuality
    retired: frozenset[str]


shares = st.floats(0, 1) | st.just(math.nan)
contenders = st.builds(
    contender,
    shares,
    shares,
    items=st.frozensets(st.sampled_from(sorted(ITEMS)), min_size=1),
    targets=st.sampled_from([0, 29, 500]),
    finite=st.booleans(),
)
cases = st.builds(
    Case,
    contenders,
    st.none() | contenders,
    st.builds(quality, shares, shares, st.sampled_from([0, 500])),
    st.frozensets(st.sampled_from(sorted(ITEMS))),
)


@given(cases)
def test_whatever_passes_is_finite_better_than_popularity_and_loses_nothing_unexplained(
    case: Case,
) -> None:
    verdict = judge(
        case.candidate, case.live, case.popularity, retired_items=case.retired, tolerance=TOLERANCE
    )
    assert verdict.reasons
    if not verdict.passed:
        return
    ours = case.candidate.quality
    assert case.candidate.weights_are_finite
    assert all(math.isfinite(getattr(ours, f)) for f in ("recall_20", "mrr_20"))
    assert ours.recall_20 > case.popularity.recall_20
    assert ours.targets >= TARGETS_MIN
    if case.live is not None:
        for figure in ("recall_20", "mrr_20"):
            theirs = getattr(case.live.quality, figure)
            noise = max(TOLERANCE * theirs, 0.5 / ours.targets**0.5)
            assert getattr(ours, figure) >= theirs - noise
        assert case.live.items - case.candidate.items <= case.retired


@given(cases)
def test_a_worse_candidate_never_passes_where_a_better_one_is_refused(case: Case) -> None:
    """Monotone: raising recall and MRR never turns a pass into a refusal."""
    better = msgspec.structs.replace(
        case.candidate,
        quality=msgspec.structs.replace(
            case.candidate.quality,
            recall_20=max(case.candidate.quality.recall_20, 0.99),
            mrr_20=max(case.candidate.quality.mrr_20, 0.99),
        ),
    )
    rest = {"retired_items": case.retired, "tolerance": TOLERANCE}
    if judge(case.candidate, case.live, case.popularity, **rest).passed:  # type: ignore[arg-type]
        assert judge(better, case.live, case.popularity, **rest).passed  # type: ignore[arg-type]


def test_the_first_model_must_beat_what_answers_without_it() -> None:
    """On a news site popularity of the last hour beats a model of yesterday: it must not take over."""
    recent = quality(0.5)
    first = judge(
        contender(0.45), None, quality(0.1), recent_popularity=recent, tolerance=TOLERANCE
    )
    assert not first.passed
    assert "recent popularity" in first.reasons[0]
    assert judge(
        contender(0.55), None, quality(0.1), recent_popularity=recent, tolerance=TOLERANCE
    ).passed


def test_of_the_first_model_its_answers_are_judged_where_they_are_known() -> None:
    """With the statistics in its second stage it answers better than they do alone, whatever it does by itself."""
    recent = quality(0.5)
    for served, passes in ((0.6, True), (0.4, False)):
        answers = (quality(0.5, targets=600), quality(served, targets=600))
        verdict = judge(
            contender(0.45),
            None,
            quality(0.1),
            recent_popularity=recent,
            statistics=answers,
            tolerance=TOLERANCE,
        )
        assert verdict.passed is passes


def test_a_better_model_replaces_a_live_one_though_both_are_below_recent_popularity() -> None:
    """Refusing it would keep the worse one live."""
    verdict = judge(
        contender(0.45),
        contender(0.3),
        quality(0.1),
        recent_popularity=quality(0.5),
        tolerance=TOLERANCE,
    )
    assert verdict.passed
