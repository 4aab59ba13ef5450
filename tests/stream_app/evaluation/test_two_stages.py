"""A bundle with its second stage as a ranker: the lists are the worker's."""

from pathlib import Path

import numpy as np

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.second_stage import SecondStages
from stream_app.core.session import SessionLimits
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.bundle_ranker import BundleRanker
from stream_app.evaluation.next_clicks import all_next_clicks
from stream_app.evaluation.session_log import SessionLog
from stream_app.evaluation.sessions import SessionTable, with_made_up_clock
from stream_app.evaluation.two_stages import TwoStageRanker, statistics_of
from tests.bundles import make_bundle
from tests.stream_app.evaluation.tables import N_ITEMS, random_sessions, table
from tests.stream_app.evaluation.test_rankers import collected

IDS = [f"item-{n}" for n in range(N_ITEMS)]
HISTORY = 5


def clocked(sessions: SessionTable, start_ms: int) -> SessionTable:
    """A click every 10 s."""
    place = np.arange(sessions.n_clicks) - np.repeat(sessions.session_starts[:-1], sessions.lengths)
    return SessionTable(
        sessions.item_indexes,
        sessions.session_starts,
        start_ms + np.repeat(np.arange(sessions.n_sessions) * 1000, sessions.lengths) + place * 10,
    )


def test_each_list_is_what_a_worker_answers(tmp_path: Path) -> None:
    """The bundle knows all items but two, the statistics all but those that nobody clicked."""
    scorer = OnnxScorer.load(make_bundle(tmp_path, ids=IDS[2:], ranked=True))
    vocabulary = ItemVocabulary([*IDS, "unheard of"])
    past = with_made_up_clock(table(random_sessions(1)))
    asked = all_next_clicks(clocked(table([*random_sessions(2, 20), [0, 1, 0, 3]]), 2 * 10**12))
    view = statistics_of(past, vocabulary, StatisticsRecipe())
    stages = SecondStages.of(scorer, view)
    assert stages is not None
    ranker = TwoStageRanker(
        BundleRanker(scorer, vocabulary, name="model"),
        stages,
        vocabulary,
        history_max=HISTORY,
        name="both",
    )
    items, scores = collected(ranker, asked, 8)

    rules = ServingRules(limits=SessionLimits(history_len_max=HISTORY), top_k=8)
    log = SessionLog(asked.sessions, vocabulary)
    sessions, answers = MemorySessions(), {}
    for at in range(len(log.ms)):
        outcome = recommend_batch([log.record(at)], sessions, scorer, view, rules, now_ms=0)
        sessions.put_many(outcome.states)
        (answer,) = outcome.recommendations
        answers.setdefault(int(log.sessions[at]), []).append(answer.items)
    row = 0
    for session in range(asked.sessions.n_sessions):
        for answer in answers[session][:-1]:
            listed = [vocabulary.ids[item] for item in items[row] if item >= 0]
            assert listed == [item.item_id for item in answer]
            assert scores[row][: len(answer)].tolist() == [item.score for item in answer]
            row += 1
    assert row == asked.n_targets


def test_a_file_without_a_clock_has_a_session_a_second() -> None:
    sessions = with_made_up_clock(table([[1, 2], [3], [4, 5, 6]]))
    assert np.diff(sessions.click_ms).tolist() == [0, 1000, 1000, 0, 0]
