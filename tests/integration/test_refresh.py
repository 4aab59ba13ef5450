"""Fresh models against a real broker: what is new is learned within a run, released as a delta, and answered with."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import ReleaseFollower, promote, read_latest
from stream_app.cli.models import models
from stream_app.core.errors import ConfigurationError
from stream_app.files.bundle import open_bundle, read_weights
from stream_app.files.registry import Registry
from stream_app.services.live_model import LiveModel

pytest.importorskip("torch", reason="needs the training environment")
pytestmark = pytest.mark.torch

from export import fine_tuning  # noqa: E402 - only where torch is
from export.run import Run  # noqa: E402
from tests.integration.ring_shop import Shop  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stream_app.settings import TopicSettings
    from tests.integration.conftest import TestKafka


@pytest.fixture
def shop(kafka: TestKafka, topics: TopicSettings, tmp_path: Path) -> Shop:
    return Shop(kafka, topics, tmp_path)


def trained(shop: Shop, sessions: int = 500, **changes: object) -> str:
    shop.clicks(sessions)
    outcome = shop.retrain(**changes)
    assert outcome.result == "published", outcome.reason
    return str(outcome.model_version)


@pytest.mark.parametrize("architecture", ["gru4rec", "cosine-gru"])
def test_new_items_are_learned_and_released_as_a_delta(shop: Shop, architecture: str) -> None:
    base = trained(shop, 1200, architecture=architecture, epochs=8)
    with closing(shop.refresher(epochs=2)) as refresher:
        shop.clicks(900, n_items=75)
        outcome = refresher.run()
    assert outcome.result == "published", outcome.reason
    assert outcome.refreshed is not None
    assert outcome.refreshed.base == base
    assert outcome.refreshed.new_items >= 10
    assert shop.live == outcome.model_version
    directory = shop.registry.fetch(str(outcome.model_version))
    bundle, before = open_bundle(directory), open_bundle(shop.registry.fetch(base))
    assert bundle.manifest.delta is not None
    assert bundle.manifest.delta.base == base
    assert bundle.vocabulary.ids[: len(before.vocabulary)] == before.vocabulary.ids
    assert bundle.manifest.training["started_from"] == base
    assert bundle.manifest.second_stage == before.manifest.second_stage
    assert bundle.ranker == before.ranker
    assert (bundle.past is None) == (before.past is None)
    # Visitors go on to new items, which only the candidate can know.
    quality = outcome.refreshed.quality
    assert quality["live"].cold_targets > 20
    assert quality["candidate"].recall_20 > quality["live"].recall_20
    OnnxScorer.load(directory)


def test_each_refresh_goes_on_from_the_last_and_is_a_delta_on_the_full_training(
    shop: Shop,
) -> None:
    base = trained(shop)
    versions = [base]
    with closing(shop.refresher()) as refresher:
        for _ in range(3):
            shop.clicks(250)
            outcome = refresher.run()
            assert outcome.result == "published", outcome.reason
            manifest = shop.registry.manifest(str(outcome.model_version))
            assert manifest.training["started_from"] == versions[-1]
            assert manifest.delta is not None
            assert manifest.delta.base == base
            versions.append(str(outcome.model_version))
    known = [shop.registry.manifest(v).training["last_event_ms"] for v in versions]
    assert known == sorted(set(known))
    release = read_latest(shop.settings.kafka, shop.settings.topics.releases)
    assert release is not None
    assert (*release.history, release.model_version) == tuple(versions)


def test_the_list_of_models_says_what_is_kept_as_a_delta(shop: Shop) -> None:
    base = trained(shop)
    with closing(shop.refresher()) as refresher:
        shop.clicks(250)
        refreshed = str(refresher.run().model_version)
    kafka, topic = shop.settings.kafka.bootstrap_servers, shop.settings.topics.releases
    flags = [
        *("--registry", shop.settings.registry, "--kafka-bootstrap-servers", kafka),
        *("--set", f"topics.releases={topic}"),
    ]
    listed = CliRunner().invoke(models, ["list", *flags], catch_exceptions=False).output
    [whole] = [
        line for line in listed.splitlines() if f" {base} " in line and " MB on " not in line
    ]
    [delta] = [line for line in listed.splitlines() if f" {refreshed} " in line]
    assert whole.rstrip(" │").endswith("whole")
    assert f" MB on {base}" in delta
    assert "live" in delta


def test_a_refresher_that_was_killed_goes_on_as_if_it_had_not_been(
    shop: Shop, tmp_path: Path
) -> None:
    """Bit for bit: all it knows is in the registry and in the click log."""
    trained(shop)
    with closing(shop.refresher()) as refresher:
        shop.clicks(250)
        refresher.run()
        shop.clicks(250)
        without_pause = refresher.run()
    weights = read_weights(shop.registry.fetch(str(without_pause.model_version)))
    release = read_latest(shop.settings.kafka, shop.settings.topics.releases)
    assert release is not None
    shop.registry.delete(str(without_pause.model_version))
    promote(
        shop.settings.kafka, shop.settings.topics.releases, release.previous, reason="once more"
    )
    with closing(shop.refresher()) as another:
        again = another.run()
    others = read_weights(shop.registry.fetch(str(again.model_version)))
    assert {name: array.tobytes() for name, array in weights.items()} == {
        name: array.tobytes() for name, array in others.items()
    }


def test_a_worker_answers_with_it_without_a_pause(shop: Shop, tmp_path: Path) -> None:
    """`LiveModel` follows from the full training to the delta, and back by a rollback."""
    base = trained(shop)
    registry = Registry(shop.settings.registry, tmp_path / "worker")
    follower = ReleaseFollower(shop.settings.kafka, shop.settings.topics.releases)
    results: list[str] = []
    live = LiveModel(
        follower, registry, poll_seconds=0.1, on_swap=lambda result, _: results.append(result)
    )
    live.start()
    try:
        assert live.wait_until_settled(60)
        assert live.scorer is not None
        assert live.scorer.model_version == base
        with closing(shop.refresher()) as refresher:
            shop.clicks(300, n_items=70)
            outcome = refresher.run()
        deadline = time.monotonic() + 60
        while live.scorer.model_version == base and time.monotonic() < deadline:
            time.sleep(0.05)
        assert live.scorer.model_version == outcome.model_version
        assert results == ["swapped", "swapped"]
    finally:
        live.stop()


def test_without_a_model_or_with_little_news_it_waits(shop: Shop) -> None:
    with closing(shop.refresher()) as refresher:
        nothing = refresher.run()
        assert (nothing.result, nothing.before_first_model) == ("waiting", True)
        base = trained(shop)
        shop.clicks(20)
        little = refresher.run()
        assert little.result == "waiting"
        assert "refresh.targets_min" in little.reason
        shop.clicks(200)
        assert refresher.run().result == "published"
        assert shop.live != base


def test_a_worse_model_is_refused_and_the_next_run_starts_from_the_full_training(
    shop: Shop,
) -> None:
    base = trained(shop)
    with closing(shop.refresher(learning_rate_factors=(60.0,), epochs=3)) as refresher:
        shop.clicks(300)
        refused = refresher.run()
    assert refused.result == "gated"
    assert "live model" in refused.reason
    assert shop.live == base
    assert shop.registry.versions() == [base]
    with closing(shop.refresher()) as refresher:
        first = refresher.run()
        shop.clicks(250)
        anew = refresher.run(from_base=True)
        assert anew.result == "published", anew.reason
        manifest = shop.registry.manifest(str(anew.model_version))
        assert manifest.training["started_from"] == base
        assert anew.refreshed is not None
        assert first.refreshed is not None
        assert anew.refreshed.new_clicks > first.refreshed.new_clicks
        assert set(anew.refreshed.quality) == {"candidate", "live", "base", "popularity"}


def test_of_several_learning_rates_the_best_on_the_newest_clicks_goes_on(shop: Shop) -> None:
    trained(shop)
    with closing(shop.refresher(learning_rate_factors=(60.0, 1.0, 40.0), epochs=3)) as refresher:
        shop.clicks(300)
        outcome = refresher.run()
    assert outcome.result == "published", outcome.reason
    assert "learned at 1 of the learning rate" in outcome.reason


def test_where_the_newest_clicks_make_it_worse_nothing_is_released(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = trained(shop)
    shop.clicks(300)
    real, calls = fine_tuning.evaluate_checkpoint, []

    def worse_at_last(*arguments: object) -> object:
        quality = real(*arguments)  # type: ignore[arg-type]
        calls.append(quality)
        last = len(calls) == 3  # candidate, live, then what has learned the newest clicks
        return quality.__class__(**{**_fields(quality), "recall_20": 0.0}) if last else quality

    monkeypatch.setattr(fine_tuning, "evaluate_checkpoint", worse_at_last)
    with closing(shop.refresher(learning_rate_factors=(1.0,))) as refresher:
        outcome = refresher.run()
    assert len(calls) == 3
    assert outcome.result == "gated"
    assert "made it worse" in outcome.reason
    assert (shop.live, shop.registry.versions()) == (base, [base])


def _fields(quality: object) -> dict[str, object]:
    return {name: getattr(quality, name) for name in quality.__struct_fields__}  # type: ignore[attr-defined]


def test_a_model_promoted_meanwhile_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    base = trained(shop)
    shop.clicks(300)
    real = Registry.publish_delta

    def promoted_meanwhile(self: Registry, directory: Path, base: str) -> object:
        shop.retrain(from_scratch=True)
        return real(self, directory, base)

    monkeypatch.setattr(Registry, "publish_delta", promoted_meanwhile)
    with closing(shop.refresher()) as refresher:
        outcome = refresher.run()
    assert outcome.result == "waiting"
    assert "promoted meanwhile" in outcome.reason
    assert shop.live not in (base, outcome.model_version)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["read", "train", "export", "publish"])
def test_a_run_cut_off_anywhere_leaves_registry_and_pointer_whole(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from contextlib import contextmanager  # noqa: PLC0415 - local to this sabotage

    base = trained(shop)
    shop.clicks(300)
    real = Run.step

    @contextmanager
    def cut_off(self: Run, name: str) -> Iterator[None]:
        with real(self, name):
            yield
        if name == step:
            raise Killed

    monkeypatch.setattr(Run, "step", cut_off)
    with closing(shop.refresher()) as refresher, pytest.raises(Killed):
        refresher.run()
    monkeypatch.undo()
    assert (shop.live == base) == (step != "publish")
    for version in shop.registry.versions():
        OnnxScorer.load(shop.registry.fetch(version))
    with closing(shop.refresher()) as refresher:
        shop.clicks(250)
        assert refresher.run().result == "published"


def test_a_full_training_is_judged_on_what_the_live_model_had_not_learned_then(
    shop: Shop,
) -> None:
    """The refreshed model knows the newest clicks by heart.  Compared with, and started from, is what was
    live before the held-out ones."""
    base = trained(shop)
    versions = [base]
    with closing(shop.refresher()) as refresher:
        for _ in range(3):
            shop.clicks(250)
            versions.append(str(refresher.run().model_version))
    outcome = shop.retrain(holdout_share=0.15)
    assert outcome.result == "published", outcome.reason
    assert outcome.report is not None
    compared = [version for version in versions if version in outcome.reason]
    assert outcome.report.training.started_from in compared
    [judge_of] = {outcome.report.training.started_from}
    known = shop.registry.manifest(judge_of).training["last_event_ms"]
    assert known < outcome.report.held_out_from_ms
    newer = versions[versions.index(judge_of) + 1 :]
    assert newer
    for version in newer:
        learned = shop.registry.manifest(version).training["last_event_ms"]
        assert learned >= outcome.report.held_out_from_ms
    shop.clicks(250)
    with closing(shop.refresher()) as refresher:
        refreshed = refresher.run()
    assert refreshed.refreshed is not None
    assert refreshed.refreshed.base == outcome.model_version


def test_old_deltas_leave_the_registry(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_app.adapters.releases.HISTORY_MAX", 1)
    base = trained(shop)
    made = []
    with closing(shop.refresher(deltas_kept=2)) as refresher:
        for _ in range(5):
            shop.clicks(200)
            made.append(str(refresher.run().model_version))
    # Two of one second sort by chance, and what was live before stays.
    kept = shop.registry.versions()
    assert {base, made[-1]} <= set(kept)
    assert made[0] not in kept
    assert len(kept) <= 4


def test_two_of_them_do_not_work_in_one_directory(shop: Shop) -> None:
    with closing(shop.refresher()), pytest.raises(ConfigurationError, match="another refresh"):
        shop.refresher()
    shop.refresher().close()


def test_a_model_without_a_clock_is_told_what_to_do(shop: Shop) -> None:
    base = shop.registry.fetch(trained(shop))
    manifest = json.loads((base / "manifest.json").read_text())
    manifest["training"]["last_event_ms"] = None
    (base / "manifest.json").write_text(json.dumps(manifest))
    with closing(shop.refresher()) as refresher, pytest.raises(ConfigurationError, match="clock"):
        refresher.run()
