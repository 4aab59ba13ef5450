"""One retraining, from the click log to the live pointer: the only file that knows all steps.

A candidate is trained on all but the newest sessions and judged on those; one that passes then learns
them too, and is published.

Killed at any point it leaves the registry as it was: everything is made in a scratch directory, a
bundle is published by one rename, and the pointer moves last.
"""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np

from export.artifact import (
    TrainingFacts,
    bundle_content,
    new_model_version,
    popularity_of,
    training_facts,
)
from export.as_refreshed import as_refreshed
from export.cold_items import Described, choose_cold_items, place_items, read_descriptions
from export.contenders import (
    CANDIDATE,
    LIVE,
    POPULARITY,
    RECENT_POPULARITY,
    Trial,
    as_metrics,
    rank_contenders,
)
from export.gate import TARGETS_MIN, Contender, Verdict, allowed_loss, judge
from export.parity import ParityReport, check_parity
from export.plan import LiveModel, Plan, Say, find_live_model, plan_refit, plan_training
from export.report import RunReport, markdown, plot
from export.run import Run, RunOutcome, scratch_directory
from export.second_stage import LiveFrom, SecondStageOutcome, SecondStageReport, make_second_stage
from export.window import Division, Window, divide, in_vocabulary_of, read_newest
from models.checkpoint import Checkpoint, all_finite
from models.config import Item2VecConfig
from models.item2vec import train_item2vec
from models.progress import ProgressCallback
from models.train import TrainingResult, train
from stream_app.adapters.item_topic import ItemCatalogue
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import promote
from stream_app.adapters.retrain_instruments import RetrainInstruments
from stream_app.core.metrics import RankingQuality
from stream_app.core.statistics import MINUTE_MS
from stream_app.evaluation.bundle_quality import evaluate_bundle
from stream_app.evaluation.session_knn import past_sessions
from stream_app.evaluation.sessions import SessionTable
from stream_app.files.bundle import BundleContent, remove_leftovers, write_bundle
from stream_app.files.registry import Registry
from stream_app.settings import RetrainSettings, Settings, serving_rules, statistics_recipe

ITEM2VEC_EPOCHS: Final = 3


def retrain_once(
    settings: Settings,
    *,
    instruments: RetrainInstruments,
    say: Say,
    progress: ProgressCallback | None = None,
    from_scratch: bool = False,
) -> RunOutcome:
    """Train, judge, and publish if the gate lets it through.

    from_scratch: no warm start, whatever the settings say.  Raises `ServiceAwayError` without a broker,
    `ConfigurationError` (registry not writable, another retraining at work), `ClickFileError` (a damaged
    log), `TrainingDivergedError`; in every case registry and pointer are as they were.
    """
    registry = Registry(settings.registry)
    registry.check_writable()
    with scratch_directory(settings, "retrain") as scratch:
        if registry.directory is not None:
            remove_leftovers(registry.directory)
        run = Run(settings, registry, scratch, instruments, say, progress)
        return _run(run, from_scratch=from_scratch)


def _run(run: Run, *, from_scratch: bool) -> RunOutcome:
    settings = run.settings.retrain
    with run.step("read"):
        live = find_live_model(run.settings, run.registry, run.say)
        window = read_newest(
            run.settings.click_log,
            window_days=settings.window_days,
            clicks_max=settings.clicks_max,
            event_types=run.settings.serving.event_types,
            limits=run.settings.session,
        )
        division = divide(
            window.sessions,
            share=settings.holdout_share,
            targets_max=settings.holdout_clicks_max,
            not_before_ms=0 if live is None else live.line_known_until_ms + 1,
        )
        live = None if live is None else live.as_of(division.cut_ms, run.registry)
        with closing(ItemCatalogue(run.settings.kafka, run.settings.topics.items)) as catalogue:
            described = read_descriptions(catalogue, settings, run.say)
    sessions = int((window.sessions.lengths >= 2).sum())
    run.instruments.training_sessions.set(sessions)
    missing = _what_is_missing(sessions, division, settings)
    if missing:
        return RunOutcome(
            result="waiting", reason=missing, sessions=sessions, before_first_model=live is None
        )

    plan = plan_training(settings, window, division, live, say=run.say, from_scratch=from_scratch)
    origin = f"the weights of {live.version}" if live is not None and plan.start else "scratch"
    run.say(
        f"training from {origin} on {plan.sessions.n_sessions:,} sessions, {plan.sessions.n_clicks:,} "
        f"clicks, {len(plan.vocabulary):,} items; {division.held_out.n_targets:,} next clicks held out"
    )
    with run.step("train"):
        training = train(
            plan.sessions,
            plan.vocabulary,
            plan.config,
            start=plan.start,
            progress=run.progress,
            threads=settings.threads,
        )
    past = in_vocabulary_of(division.past, window.vocabulary, plan.vocabulary)
    content, checkpoint = _content(run, training, plan, past, _origin(plan, live), described)
    with run.step("export"):
        candidate, parity = _export(run, content, checkpoint)
    with run.step("evaluate"):
        trial = Trial(
            past=past,
            held_out=in_vocabulary_of(division.held_out, window.vocabulary, content.vocabulary),
            vocabulary=content.vocabulary,
            window=window,
            division=division,
            half_life_ms=run.settings.statistics.half_life_minutes * MINUTE_MS,
        )
        quality = rank_contenders(trial, candidate, live.scorer if live else None)
    second = _second_stage(run, window, candidate, content, checkpoint, division, past)
    verdict = _judge(
        quality, training.checkpoint, candidate, live, plan, second, settings.gate_tolerance
    )
    if verdict.passed:
        fresh = _refit(run, window, division, plan, training, quality[CANDIDATE], live, described)
        if fresh is not None:
            content, parity = fresh
            past = in_vocabulary_of(window.sessions, window.vocabulary, content.vocabulary)
    if second is not None and second.report.is_better:
        # Learned on what the judged model had not seen; the refitted one only knows more.
        content = replace(
            content,
            second_stage=second.stage,
            ranker=second.ranker,
            past=past_sessions(past, settings.session_clicks_max),
        )
    return _finish(
        run,
        content,
        training,
        quality,
        verdict,
        parity,
        plan,
        live,
        division,
        sessions,
        second_stage=None if second is None else second.report,
    )


def _second_stage(
    run: Run,
    window: Window,
    candidate: OnnxScorer,
    content: BundleContent,
    checkpoint: Checkpoint,
    division: Division,
    past: SessionTable,
) -> SecondStageOutcome | None:
    """A ranker of the held-out clicks; None where the settings want none, or the clicks are too few."""
    settings = run.settings
    if not settings.retrain.second_stage:
        return None
    first = LiveFrom(division.cut_ms, candidate, content.item2vec)
    with run.step("second_stage"):
        found = make_second_stage(
            window,
            as_refreshed(first, checkpoint, window, settings, run.scratch / "refreshed"),
            past_sessions(past, settings.retrain.session_clicks_max),
            statistics_recipe(settings),
            serving_rules(settings),
            from_ms=division.cut_ms,
            version_seconds=settings.statistics.publish_seconds,
            threads=settings.retrain.threads,
        )
    if found is None:
        run.say("no second stage: too few held-out clicks to learn one and judge it")
        return None
    one, two = found.report.one_stage, found.report.two_stages
    run.say(
        f"second stage (co-occurrence alone {found.report.statistics.recall_20:.4f}): Recall@20 {one.recall_20:.4f} -> {two.recall_20:.4f}, MRR@20 "
        f"{one.mrr_20:.4f} -> {two.mrr_20:.4f}{'' if found.report.is_better else ', left out'}"
    )
    return found


def _refit(
    run: Run,
    window: Window,
    division: Division,
    plan: Plan,
    judged: TrainingResult,
    judged_quality: RankingQuality,
    live: LiveModel | None,
    described: Described,
) -> tuple[BundleContent, ParityReport] | None:
    """The judged model after the newest sessions too; None if that made it worse, or broke it.

    It cannot be judged on unseen clicks any more.  What it has learned by heart must not rank lower than
    before, though: that would be a training gone wrong, and the judged model is published as it is.
    """
    settings = run.settings.retrain
    refit = plan_refit(settings, window, division, plan, judged.checkpoint)
    with run.step("refit"):
        training = train(
            refit.sessions,
            refit.vocabulary,
            refit.config,
            start=refit.start,
            progress=run.progress,
            threads=settings.threads,
        )
        everything = in_vocabulary_of(window.sessions, window.vocabulary, refit.vocabulary)
        content, checkpoint = _content(
            run, training, refit, everything, _origin(plan, live), described
        )
        scorer, parity = _export(run, content, checkpoint)
        held_out = in_vocabulary_of(division.held_out, window.vocabulary, content.vocabulary)
        recall = evaluate_bundle(scorer, held_out).recall_20
    allowed = allowed_loss(
        judged_quality.recall_20, judged_quality.targets, settings.gate_tolerance
    )
    # "not above", so that a NaN is refused as well.
    if not (
        recall >= judged_quality.recall_20 - allowed and all_finite(training.checkpoint.weights)
    ):
        run.say(f"the newest sessions made it worse (Recall@20 {recall:.4f}): published as judged")
        return None
    return content, parity


def _finish(
    run: Run,
    content: BundleContent,
    training: TrainingResult,
    quality: dict[str, RankingQuality],
    verdict: Verdict,
    parity: ParityReport,
    plan: Plan,
    live: LiveModel | None,
    division: Division,
    sessions: int,
    *,
    second_stage: SecondStageReport | None,
) -> RunOutcome:
    """Publish or not, and write the report either way."""
    version = content.model_version
    of_model_and_counts = (CANDIDATE, LIVE, POPULARITY, RECENT_POPULARITY)
    run.instruments.judged(
        {name: quality[name] for name in of_model_and_counts if name in quality},
        training.events_per_second,
    )
    known = frozenset(live.scorer.vocabulary.ids) if live else frozenset()
    if verdict.passed:
        with run.step("publish"):
            metrics = {**as_metrics(quality), "parity": msgspec.to_builtins(parity)}
            if second_stage is not None:
                metrics["second_stage"] = msgspec.to_builtins(second_stage)
            final = run.scratch / "final" / version
            write_bundle(final, replace(content, metrics=metrics))
            OnnxScorer.load(final)  # as the workers will, the ranker included: none may refuse it
            run.registry.publish(final)
    report = RunReport(
        model_version=version,
        result="published" if verdict.passed else "gated",
        verdict=verdict,
        quality=quality,
        training=msgspec.convert(content.training, TrainingFacts),
        held_out_from_ms=division.cut_ms,
        n_items=len(content.vocabulary),
        new_items=len(set(content.vocabulary.ids) - known),
        retired_items=len(plan.retired),
        epoch_losses=training.checkpoint.record.epoch_losses,
        events_per_second=training.events_per_second,
        parity=parity,
        step_seconds=run.seconds,
        second_stage=second_stage,
    )
    where = _write_report(run, report)
    if verdict.passed:
        # Last of all: from here on workers switch, and everything they and people need is in place.
        reason = f"retrained: {'; '.join(verdict.reasons)}"
        promote(run.settings.kafka, run.settings.topics.releases, version, reason=reason)
    return RunOutcome(
        result="published" if verdict.passed else "gated",
        reason="; ".join(verdict.reasons),
        model_version=version,
        sessions=sessions,
        report=report,
        report_path=where,
    )


def _what_is_missing(sessions: int, division: Division, settings: RetrainSettings) -> str | None:
    if sessions < settings.sessions_min:
        return (
            f"{sessions} of {settings.sessions_min} sessions of two clicks or more are in the click log "
            "(retrain.sessions_min)"
        )
    if division.held_out.n_targets < TARGETS_MIN:
        return (
            f"only {division.held_out.n_targets} next clicks are newer than what the live model learned "
            f"from; {TARGETS_MIN} are needed to judge another one"
        )
    if division.past.n_targets == 0:
        return "no session of two clicks or more lies before the held-out ones"
    return None


def _origin(plan: Plan, live: LiveModel | None) -> str | None:
    """Version whose weights the candidate began with; None: from scratch."""
    return live.version if live is not None and plan.start is not None else None


def _content(
    run: Run,
    training: TrainingResult,
    plan: Plan,
    past: SessionTable,
    started_from: str | None,
    described: Described,
) -> tuple[BundleContent, Checkpoint]:
    """What the bundle holds, and the network in it: the trained one, and places for unclicked items."""
    settings, now = run.settings.retrain, datetime.now(UTC)
    n_items = len(plan.vocabulary)
    with run.step("item2vec"):
        item2vec = train_item2vec(
            plan.sessions,
            n_items,
            Item2VecConfig(epochs=ITEM2VEC_EPOCHS),
            threads=settings.threads,
        )
    placed = place_items(
        training.checkpoint,
        item2vec,
        choose_cold_items(described, plan.vocabulary, settings.items_max - n_items, settings),
        described,
        past.support(n_items).astype(np.float64),
        boost=settings.cold_item_boost,
        say=run.say,
    )
    checkpoint = placed.checkpoint
    facts = training_facts(
        past,
        epochs=plan.config.epochs,
        seconds=training.seconds,
        started_from=started_from,
    )
    content = bundle_content(
        checkpoint,
        model_version=new_model_version(now, checkpoint),
        created_at=now,
        item2vec=placed.item2vec,
        popularity=popularity_of(past, len(checkpoint.vocabulary)),
        training=facts,
        metrics={},
        sessions=past,
        approximate_scoring=settings.approximate_scoring,
        placed=frozenset(placed.items),
    )
    return content, checkpoint


def _export(
    run: Run, content: BundleContent, checkpoint: Checkpoint
) -> tuple[OnnxScorer, ParityReport]:
    """The candidate as it would be served, proven equal to what was trained."""
    directory = run.scratch / "candidate" / content.model_version
    write_bundle(directory, content)
    scorer = OnnxScorer.load(directory)
    return scorer, check_parity(checkpoint.model(), scorer)


def _judge(
    quality: dict[str, RankingQuality],
    checkpoint: Checkpoint,
    candidate: OnnxScorer,
    live: LiveModel | None,
    plan: Plan,
    second: SecondStageOutcome | None,
    tolerance: float,
) -> Verdict:
    def contender(scorer: OnnxScorer, name: str) -> Contender:
        return Contender(
            version=scorer.model_version,
            quality=quality[name],
            items=frozenset(scorer.vocabulary.ids),
            weights_are_finite=all_finite(checkpoint.weights) if name == CANDIDATE else True,
        )

    return judge(
        contender(candidate, CANDIDATE),
        contender(live.scorer, LIVE) if live is not None else None,
        quality[POPULARITY],
        recent_popularity=quality[RECENT_POPULARITY],
        statistics=None if second is None else (second.report.statistics, second.report.served),
        retired_items=plan.retired,
        tolerance=tolerance,
    )


def _write_report(run: Run, report: RunReport) -> str:
    version = report.model_version
    run.registry.write_report(version, "report.png", plot(report.epoch_losses, report.quality))
    data = msgspec.json.format(msgspec.json.encode(report), indent=2)
    run.registry.write_report(version, "report.json", data)
    return run.registry.write_report(version, "report.md", markdown(report).encode())
