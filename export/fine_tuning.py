"""The live model after some minutes more of clicks, and whether it is any better for them.

What is new since the model last learned is learned together with as many older sessions of the window:
a model that sees new sessions alone forgets the others.  Judged on the newest of the new ones before it
learns these, too, by the gate that full trainings pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.contenders import CANDIDATE, POPULARITY
from export.gate import Contender, Verdict, allowed_loss, judge
from export.window import Division, divide, in_vocabulary_of
from models.checkpoint import Checkpoint, all_finite
from models.evaluate import evaluate_checkpoint
from models.train import TrainingResult, train
from stream_app.core.metrics import RankingQuality
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.baselines import evaluate_popularity
from stream_app.evaluation.sessions import SessionTable
from stream_app.settings import RefreshSettings


class Rival(NamedTuple):
    version: str
    model: Checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class FineTuned:
    checkpoint: Checkpoint
    verdict: Verdict
    quality: dict[str, RankingQuality]
    """By contender, on the clicks it was judged on."""
    judged_from_ms: int
    sessions: int
    """Learned from, old ones included."""
    clicks: int
    new_clicks: int
    """Of these, newer than what the live model had learned."""
    losses: tuple[float, ...]
    learning_rate_factor: float
    """The best of `refresh.learning_rate_factors`."""
    events: int
    seconds: float
    """Of training."""


class _Tried(NamedTuple):
    """The new clicks but the newest, learned at one learning rate."""

    factor: float
    result: TrainingResult
    quality: RankingQuality


def fine_tune(
    start: Checkpoint,
    base: Checkpoint,
    rivals: Mapping[str, Rival],
    window: SessionTable,
    vocabulary: ItemVocabulary,
    settings: RefreshSettings,
    *,
    known_until_ms: int,
    tolerance: float,
    unsettled: NDArray[np.int64],
    threads: int = 1,
    seed: int = 0,
) -> FineTuned | str:
    """Learn what came after `known_until_ms`; a sentence why not, where there is too little of it.

    start: weights and optimiser to go on from.  base: what a delta is told on; its items begin those of
    `start`, and rows that have hardly moved from its own go back to them.  rivals: whom the outcome must not be worse than, as
    contenders by name.  window: the sessions of the last hours, as rows of `vocabulary`, which begins
    with the items of `start` (a rival's items are among them, in any order).
    unsettled: rows of `start` that stay as they are: all that a training could learn of items nobody has clicked is
    that they are nobody's next click.
    """
    is_new = _newest_ms(window) > known_until_ms
    new = window.select(np.flatnonzero(is_new))
    division = divide(new, share=settings.holdout_share, targets_max=settings.holdout_clicks_max)
    if division.held_out.n_targets < settings.targets_min or division.past.n_targets == 0:
        return (
            f"{division.held_out.n_targets} of the {settings.targets_min} next clicks are there that a "
            "fine-tuned model is judged on (refresh.targets_min)"
        )
    old = window.select(np.flatnonzero(~is_new))
    rng = np.random.default_rng(seed)
    new_clicks = int((window.click_ms > known_until_ms).sum())

    learned = [_with_some_of(old, division.past, settings.replay_share, rng)]

    def trained(
        begin: Checkpoint, sessions: SessionTable, seed: int, factor: float
    ) -> TrainingResult:
        config = start.config.changed(
            epochs=settings.epochs, seed=seed, learning_rate=start.config.learning_rate * factor
        )
        result = train(sessions, vocabulary, config, start=begin, threads=threads)
        # Its own hyper-parameters are kept in what comes out.
        checkpoint = replace(result.checkpoint, config=start.config)
        checkpoint = _with_rows_of(start, checkpoint, unsettled)
        checkpoint = _few_rows_moved(checkpoint, base, settings.least_change)
        return replace(result, checkpoint=checkpoint)

    tried = []
    for factor in settings.learning_rate_factors:
        result = trained(start, learned[0], seed, factor)
        figures = evaluate_checkpoint(result.checkpoint, division.held_out)
        tried.append(_Tried(factor, result, figures))
    best = max(tried, key=lambda one: one.quality.recall_20 + one.quality.mrr_20)
    first = best.result
    quality = {
        CANDIDATE: best.quality,
        **{name: _of_rival(r.model, division.held_out, vocabulary) for name, r in rivals.items()},
        POPULARITY: evaluate_popularity(
            _joined(old, division.past), division.held_out, len(vocabulary)
        ),
    }
    verdict = _verdict(quality, first.checkpoint, rivals, tolerance)
    results = [first]
    if verdict.passed:
        newest = _not_before(new, division)
        learned.append(_with_some_of(old, newest, settings.replay_share, rng))
        results.append(trained(first.checkpoint, learned[1], seed + 1, best.factor))
        verdict = _still_good(
            verdict, results[1].checkpoint, division, quality[CANDIDATE], tolerance
        )
    return FineTuned(
        checkpoint=results[-1].checkpoint,
        verdict=verdict,
        quality=quality,
        judged_from_ms=division.cut_ms,
        sessions=sum(part.n_sessions for part in learned),
        clicks=sum(part.n_clicks for part in learned),
        new_clicks=new_clicks,
        losses=tuple(loss for r in results for loss in r.checkpoint.record.epoch_losses),
        learning_rate_factor=best.factor,
        events=sum(result.events for result in (*(one.result for one in tried), *results[1:])),
        seconds=sum(result.seconds for result in (*(one.result for one in tried), *results[1:])),
    )


def _few_rows_moved(checkpoint: Checkpoint, base: Checkpoint, least: float) -> Checkpoint:
    """The same with items that moved by less than `least` of their length where the base has them.

    Every sampled negative moves a little, so nearly all items of a catalogue do; most of that is noise,
    and nine tenths of a delta.  The optimiser's state goes back with the row.
    """
    n = len(base.vocabulary)
    still = torch.ones(n, dtype=torch.bool)
    for name in checkpoint.item_tables:
        before, after = base.weights[name], checkpoint.weights[name][:n]
        if before.ndim == 2:  # a bias goes with its item's vector
            still &= (after - before).norm(dim=1) < least * before.norm(dim=1)
    return _with_rows_of(base, checkpoint, np.flatnonzero(still.numpy()))


def _with_rows_of(other: Checkpoint, checkpoint: Checkpoint, rows: NDArray[np.int64]) -> Checkpoint:
    """The checkpoint with some items as `other` has them, the optimiser's state included."""
    if not len(rows):
        return checkpoint
    tables, chosen = checkpoint.item_tables, torch.from_numpy(rows)

    def put_back(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        result = dict(ours)
        for name, before in theirs.items():
            if name.rpartition(".")[2] in tables and name in ours:
                result[name] = ours[name].clone()
                result[name][chosen] = before[chosen]
        return result

    return replace(
        checkpoint,
        weights=put_back(checkpoint.weights, other.weights),
        optimiser=put_back(checkpoint.optimiser, other.optimiser),
    )


def _with_some_of(
    old: SessionTable, new: SessionTable, share: float, rng: np.random.Generator
) -> SessionTable:
    """The new sessions and so many clicks of old ones, drawn anew each time, all by their start."""
    old = old.at_least(2)
    wanted = share * new.n_clicks / max(old.n_clicks, 1)
    drawn = np.flatnonzero(rng.random(old.n_sessions) < wanted)
    return _joined(old.select(drawn), new)


def _joined(a: SessionTable, b: SessionTable) -> SessionTable:
    starts = np.concatenate((a.session_starts, b.session_starts[1:] + a.n_clicks))
    both = SessionTable(
        np.concatenate((a.item_indexes, b.item_indexes)),
        starts,
        np.concatenate((a.click_ms, b.click_ms)),
    )
    return both.select(np.argsort(both.start_ms, kind="stable"))


def _not_before(new: SessionTable, division: Division) -> SessionTable:
    """The sessions with a click at the cut or later."""
    return new.select(np.flatnonzero(_newest_ms(new) >= division.cut_ms))


def _newest_ms(sessions: SessionTable) -> NDArray[np.int64]:
    """Latest event time of each session, int64 [n_sessions]."""
    if not sessions.n_sessions:
        return np.zeros(0, dtype=np.int64)
    return np.maximum.reduceat(sessions.click_ms, sessions.session_starts[:-1])


def _of_rival(
    model: Checkpoint, sessions: SessionTable, vocabulary: ItemVocabulary
) -> RankingQuality:
    return evaluate_checkpoint(model, in_vocabulary_of(sessions, vocabulary, model.vocabulary))


def _verdict(
    quality: dict[str, RankingQuality],
    candidate: Checkpoint,
    rivals: Mapping[str, Rival],
    tolerance: float,
) -> Verdict:
    """Of the gate, once against each rival."""
    contender = Contender(
        version=CANDIDATE,
        quality=quality[CANDIDATE],
        items=frozenset(candidate.vocabulary.ids),
        weights_are_finite=all_finite(candidate.weights),
    )
    verdicts = [
        judge(
            contender,
            Contender(
                version=rival.version,
                quality=quality[name],
                items=frozenset(rival.model.vocabulary.ids),
            ),
            quality[POPULARITY],
            retired_items=frozenset(rival.model.vocabulary.ids).difference(
                candidate.vocabulary.ids
            ),
            tolerance=tolerance,
        )
        for name, rival in rivals.items()
    ]
    passed = all(verdict.passed for verdict in verdicts)
    told = (reason for v in verdicts if v.passed == passed for reason in v.reasons)
    return Verdict(passed=passed, reasons=tuple(dict.fromkeys(told)))


def _still_good(
    verdict: Verdict,
    checkpoint: Checkpoint,
    division: Division,
    judged: RankingQuality,
    tolerance: float,
) -> Verdict:
    """What it has learned now must not rank lower than before: that would be a training gone wrong."""
    recall = evaluate_checkpoint(checkpoint, division.held_out).recall_20
    least = judged.recall_20 - allowed_loss(judged.recall_20, judged.targets, tolerance)
    if recall >= least and all_finite(checkpoint.weights):
        return verdict
    reason = f"the newest clicks made it worse: Recall@20 {recall:.4f} on what it had just learned"
    return Verdict(passed=False, reasons=(reason,))
