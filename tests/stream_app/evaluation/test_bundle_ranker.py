"""A bundle, and a bundle blended with session-kNN, as rankers among others."""

import numpy as np
import pytest

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import ConfigurationError
from stream_app.core.session_neighbours import SessionKNNConfig
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.blend import BlendRanker
from stream_app.evaluation.bundle_quality import evaluate_bundle
from stream_app.evaluation.bundle_ranker import BundleRanker
from stream_app.evaluation.judge import quality_of
from stream_app.evaluation.next_clicks import all_next_clicks, next_clicks_of_pairs
from stream_app.evaluation.session_knn import SessionKNNRanker
from stream_app.evaluation.sessions import SessionTable
from tests.bundles import make_bundle
from tests.stream_app.evaluation.tables import next_clicks, random_sessions, table
from tests.stream_app.evaluation.test_rankers import collected, same_figures

N = 50


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> OnnxScorer:
    return OnnxScorer.load(make_bundle(tmp_path_factory.mktemp("bundle"), n_items=N))


def reordered(scorer: OnnxScorer) -> tuple[ItemVocabulary, np.ndarray]:
    """A vocabulary with other rows and one item more; row in it of each of the bundle's items."""
    ids = list(np.random.default_rng(1).permutation([*scorer.vocabulary.ids, "another"]))
    vocabulary = ItemVocabulary([str(item) for item in ids])
    return vocabulary, np.array([vocabulary.index_of[item] for item in scorer.vocabulary.ids])


def test_it_ranks_as_evaluate_bundle_does_whatever_the_vocabulary(scorer: OnnxScorer) -> None:
    sessions = table([*random_sessions(2, 700, n_items=N), [-1, 3, -1, 4]])
    vocabulary, ours = reordered(scorer)
    known = sessions.item_indexes >= 0
    theirs = np.where(known, ours[sessions.item_indexes], vocabulary.index_of["another"])
    asked = all_next_clicks(SessionTable(theirs, sessions.session_starts, sessions.click_ms))
    ranker = BundleRanker(scorer, vocabulary, name="gru4rec")
    same_figures(quality_of(ranker, asked), evaluate_bundle(scorer, sessions))
    assert ranker.catalogue.sum() == N


def test_a_pair_is_ranked_as_its_session_is(scorer: OnnxScorer) -> None:
    ranker = BundleRanker(scorer, scorer.vocabulary, name="gru4rec")
    session = [3, 1, 4, 1, 5]
    whole = collected(ranker, next_clicks([session]), 21)
    alone = next_clicks_of_pairs([session[:n] for n in range(1, 5)], session[1:])
    assert alone.sessions.n_sessions == 4, "shortest first: nothing to join"
    separate = collected(ranker, alone, 21)
    np.testing.assert_array_equal(separate[0], whole[0])
    np.testing.assert_array_equal(separate[1], whole[1])


def test_a_list_longer_than_the_catalogue_ends_early(scorer: OnnxScorer) -> None:
    ranker = BundleRanker(scorer, scorer.vocabulary, name="gru4rec")
    items, _ = collected(ranker, next_clicks([[1, 2]]), N + 10)
    assert sorted(items[0][:N]) == list(range(N))
    assert (items[0][N:] == -1).all()


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_blend_adds_the_shares_of_both(scorer: OnnxScorer, weight: float) -> None:
    model = BundleRanker(scorer, scorer.vocabulary, name="gru4rec")
    knn = SessionKNNRanker(table(random_sessions(3, n_items=N)), N, SessionKNNConfig())
    asked = next_clicks(random_sessions(4, 20, n_items=N))
    items, scores = collected(BlendRanker(model, knn, weight=weight), asked, 21)

    expected = np.zeros((asked.n_targets, N))
    listed, logits = collected(model, asked, N)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    np.put_along_axis(expected, listed, weight * shares, axis=1)
    listed, votes = collected(knn, asked, N)
    votes = np.where(listed >= 0, votes, 0)
    votes = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-300)
    for row in range(asked.n_targets):
        np.add.at(expected[row], listed[row], (1 - weight) * votes[row])
    best = -np.sort(-expected, axis=1)[:, :21]
    np.testing.assert_allclose(np.where(items >= 0, scores, 0), best, atol=1e-6)
    given = np.take_along_axis(expected, np.maximum(items, 0), axis=1)
    np.testing.assert_allclose(np.where(items >= 0, given, 0), best, atol=1e-6)


def test_a_weight_beyond_one_is_refused(scorer: OnnxScorer) -> None:
    model = BundleRanker(scorer, scorer.vocabulary, name="gru4rec")
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        BlendRanker(model, model, weight=1.5)
