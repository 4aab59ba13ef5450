# ruff: noqa: E402 - torch is looked for first
"""The ranker of a bundle: what it learns from, and that it learns what the first stage cannot know."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from export.artifact import bundle_content, popularity_of
from export.second_stage import LiveFrom, gather_lists, learn_second_stage, make_second_stage
from export.window import Window
from models.config import GRU4RecConfig
from models.train import train
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.candidates import feature_names
from stream_app.core.manifest import SecondStage
from stream_app.core.pipeline import ServingRules
from stream_app.core.session_neighbours import PastSessions
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.session_knn import past_sessions
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.targets import MISS
from stream_app.files.bundle import write_bundle

N_ITEMS = 40
RECIPE = StatisticsRecipe()
START_MS = 1_800_000_000_000


def moment(session: int) -> int:
    """Start of a session, ms."""
    return START_MS + session * 3_000


def window(n_sessions: int, *, turn_ms: int) -> Window:
    """A walk round a circle; from `turn_ms` on it goes the other way round: news for an old model."""
    rng = np.random.default_rng(1)
    items, starts, times = [], [0], []
    for session in range(n_sessions):
        at = moment(session)
        step = 1 if at < turn_ms else -1
        item = int(rng.integers(N_ITEMS))
        for click in range(int(rng.integers(2, 6))):
            items.append((item + step * click) % N_ITEMS)
            times.append(at + click * 10_000)
        starts.append(len(items))
    vocabulary = ItemVocabulary(f"item-{n}" for n in range(N_ITEMS))
    table = SessionTable(np.array(items), np.array(starts), np.array(times))
    return Window(vocabulary, table, max(times))


@pytest.fixture(scope="module")
def log() -> Window:
    return window(3_000, turn_ms=moment(1_000))


@pytest.fixture(scope="module")
def scorer(log: Window, tmp_path_factory: pytest.TempPathFactory) -> OnnxScorer:
    """Learned before the turn."""
    past, _ = log.sessions.split_at(moment(900))
    config = GRU4RecConfig(units=16, batch_size=16, n_sample=16, epochs=4)
    checkpoint = train(past, log.vocabulary, config).checkpoint
    content = bundle_content(
        checkpoint,
        model_version="m-1",
        created_at=datetime.now(UTC),
        item2vec=np.eye(N_ITEMS, 8, dtype=np.float32),
        popularity=popularity_of(past, N_ITEMS),
        training={},
        metrics={},
        sessions=past,
    )
    directory: Path = tmp_path_factory.mktemp("bundles") / "m-1"
    write_bundle(directory, content)
    return OnnxScorer.load(directory)


ITEM2VEC = np.eye(N_ITEMS, 8, dtype=np.float32)
PAST = PastSessions(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64))
"""No past sessions."""
STAGE = SecondStage(
    features=feature_names(RECIPE), model_items=10, associated_items=10, popular_items=5
)


def test_each_next_click_is_a_list_as_it_was_before_the_click(
    log: Window, scorer: OnnxScorer
) -> None:
    from_ms = moment(2_800)
    lists = gather_lists(
        log,
        [LiveFrom(0, scorer, ITEM2VEC)],
        PAST,
        STAGE,
        RECIPE,
        ServingRules(),
        from_ms=from_ms,
        version_seconds=10,
    )
    _, newest = log.sessions.split_at(from_ms)
    assert len(lists.wanted) == newest.n_targets
    clicks = feature_names(RECIPE).index("session_log_clicks")
    lengths = np.concatenate([np.arange(1, n) for n in newest.lengths])
    gathered = [round(float(np.exp(each.features[0, clicks]))) for each in lists.candidates]
    assert sorted(gathered) == sorted(lengths.tolist())
    hits = lists.wanted >= 0
    assert hits.mean() > 0.95, "what follows now is among the candidates"
    for place, candidates, rank in zip(
        lists.wanted.tolist(), lists.candidates, lists.first_stage_ranks.tolist(), strict=True
    ):
        assert -1 <= place < len(candidates.ids)
        assert rank == MISS or 1 <= rank <= 20


def test_it_learns_to_trust_the_statistics_where_the_model_is_old(
    log: Window, scorer: OnnxScorer
) -> None:
    """The model walks the wrong way round; what followed a minute ago does not."""
    lists = gather_lists(
        log,
        [LiveFrom(0, scorer, ITEM2VEC)],
        PAST,
        STAGE,
        RECIPE,
        ServingRules(),
        from_ms=moment(1_300),
        version_seconds=10,
    )
    learned = learn_second_stage(lists)
    assert learned is not None
    _, report = learned
    assert report.lists == len(lists.wanted)
    assert report.two_stages.targets == report.one_stage.targets
    assert report.one_stage.mrr_20 < 0.3
    assert report.two_stages.mrr_20 > 0.8
    assert report.is_better
    assert report.served == report.two_stages
    assert report.statistics.mrr_20 > 0.5, "it knows which way round, without knowing the model"
    again = learn_second_stage(lists)
    assert again is not None
    assert again[0].hidden.tobytes() == learned[0].hidden.tobytes()


def test_past_sessions_find_what_the_model_does_not_list(log: Window, scorer: OnnxScorer) -> None:
    """The model walks the wrong way round, and no other source is asked; the past sessions are after the turn."""
    after, _ = log.sessions.split_at(moment(1_900))
    after = after.select(np.flatnonzero(after.start_ms >= moment(1_100)))
    learned = {}
    for name, items in (("without", 0), ("with", 20)):
        stage = SecondStage(
            features=feature_names(RECIPE),
            model_items=0,
            associated_items=0,
            popular_items=0,
            session_items=items,
        )
        lists = gather_lists(
            log,
            [LiveFrom(0, scorer, ITEM2VEC)],
            past_sessions(after),
            stage,
            RECIPE,
            ServingRules(),
            from_ms=moment(2_000),
            version_seconds=1e9,
        )
        learned[name] = learn_second_stage(lists)
    reports = {name: found[1] for name, found in learned.items() if found is not None}
    assert reports["without"].candidates_share < 0.8
    assert reports["with"].candidates_share > 0.95
    assert reports["with"].two_stages.mrr_20 > 0.9 > reports["without"].two_stages.mrr_20


def test_of_too_many_lists_the_newest_are_taken(log: Window, scorer: OnnxScorer) -> None:
    from_ms = moment(2_000)
    lists = gather_lists(
        log,
        [LiveFrom(0, scorer, ITEM2VEC)],
        PAST,
        STAGE,
        RECIPE,
        ServingRules(),
        from_ms=from_ms,
        version_seconds=10,
        lists_max=500,
    )
    assert 450 < len(lists.wanted) <= 500
    everything = gather_lists(
        log,
        [LiveFrom(0, scorer, ITEM2VEC)],
        PAST,
        STAGE,
        RECIPE,
        ServingRules(),
        from_ms=from_ms,
        version_seconds=10,
    )
    newest = everything.candidates[-len(lists.wanted) // 2 :]
    assert [each.ids for each in lists.candidates[-len(newest) :]] == [each.ids for each in newest]


def test_too_few_clicks_teach_nothing(log: Window, scorer: OnnxScorer) -> None:
    assert (
        make_second_stage(
            log,
            [LiveFrom(0, scorer, ITEM2VEC)],
            PAST,
            RECIPE,
            ServingRules(),
            from_ms=moment(2_950),
            version_seconds=10,
        )
        is None
    )
