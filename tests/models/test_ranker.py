# ruff: noqa: E402 - torch is looked for first
"""The second stage learns which candidate is clicked, and is served as it was trained."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from export.ranker_graph import FARTHEST, RankerWeights, ranker_graph
from models.ranker import RankedLists, Ranker, RankerConfig, train_ranker
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import BundleError
from stream_app.core.manifest import SecondStage
from stream_app.files.bundle import write_bundle
from tests.bundles import bundle_content

FEATURES = ("signal", "noise", "constant")


def lists(n_lists: int, seed: int = 0) -> RankedLists:
    """The candidate with the largest |signal| is clicked: no linear scorer finds it."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 9, n_lists)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    features = rng.normal(2.0, 3.0, (starts[-1], 3)).astype(np.float32)
    features[:, 2] = 7.0
    clicked = [
        first + int(np.abs(features[first:last, 0] - 2.0).argmax())
        for first, last in pairwise(starts)
    ]
    return RankedLists(features, starts, np.array(clicked))


def weights_of(ranker: Ranker) -> RankerWeights:
    return RankerWeights(
        ranker.mean, ranker.deviation, ranker.hidden, ranker.hidden_bias, ranker.out, ranker.skip
    )


def share_on_top(scores: np.ndarray, held_out: RankedLists) -> float:
    best = [first + int(scores[first:last].argmax()) for first, last in pairwise(held_out.starts)]
    return float(np.mean(np.array(best) == held_out.clicked))


def scorer_with(parent: Path, ranker: Ranker) -> OnnxScorer:
    content = replace(
        bundle_content(30),
        second_stage=SecondStage(features=FEATURES),
        ranker=ranker_graph(weights_of(ranker)).SerializeToString(),
    )
    write_bundle(parent / content.model_version, content)
    return OnnxScorer.load(parent / content.model_version)


def test_it_learns_what_no_single_feature_says_and_is_served_as_trained(tmp_path: Path) -> None:
    ranker = train_ranker(
        lists(2_000), RankerConfig(epochs=30, learning_rate=0.01), farthest=FARTHEST
    )
    held_out = lists(500, seed=1)
    served = scorer_with(tmp_path, ranker).ranker
    assert served is not None
    scores = served.scores(held_out.features)
    assert share_on_top(scores, held_out) > 0.9
    standard = ((held_out.features - ranker.mean) / ranker.deviation).clip(-FARTHEST, FARTHEST)
    hidden = np.maximum(standard @ ranker.hidden + ranker.hidden_bias, 0)
    expected = hidden @ ranker.out + standard @ ranker.skip
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert ranker.epoch_losses[-1] < ranker.epoch_losses[0]


def test_the_same_lists_give_the_same_weights_bit_for_bit() -> None:
    one, other = (train_ranker(lists(200), farthest=FARTHEST) for _ in range(2))
    assert one.hidden.tobytes() == other.hidden.tobytes()
    assert one.out.tobytes() == other.out.tobytes()


def test_a_candidates_score_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    served = scorer_with(tmp_path, train_ranker(lists(50), farthest=FARTHEST)).ranker
    assert served is not None
    features = lists(40, seed=2).features
    whole = served.scores(features)
    for size in (1, 2, 7, 33):
        for first in range(0, len(features), size):
            part = served.scores(features[first : first + size])
            assert part.tobytes() == whole[first : first + size].tobytes()
    assert len(served.scores(features[:0])) == 0


def test_a_ranker_that_gives_nan_or_other_features_is_refused(tmp_path: Path) -> None:
    ranker = train_ranker(lists(50), farthest=FARTHEST)
    broken = replace(ranker, out=np.full_like(ranker.out, np.nan))
    with pytest.raises(BundleError, match="holds NaN"):
        scorer_with(tmp_path / "nan", broken)
    content = bundle_content(30)
    graph = ranker_graph(weights_of(ranker)).SerializeToString()
    fewer = replace(content, second_stage=SecondStage(features=FEATURES[:2]), ranker=graph)
    write_bundle(tmp_path / "fewer" / content.model_version, fewer)
    with pytest.raises(BundleError, match=r"ranker.onnx"):
        OnnxScorer.load(tmp_path / "fewer" / content.model_version)
