"""Retraining against a real broker: the log becomes a model, a better one replaces it, a worse one not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import promote
from stream_app.core.errors import ConfigurationError
from stream_app.core.metrics import quality_of_ranks
from stream_app.files.bundle import open_bundle
from stream_app.files.click_log import read_window

pytest.importorskip("torch", reason="needs the training environment")
pytestmark = pytest.mark.torch

from export.run import Run  # noqa: E402 - only where torch is
from tests.integration.ring_shop import Shop  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream_app.settings import TopicSettings
    from tests.integration.conftest import TestKafka


@pytest.fixture
def shop(kafka: TestKafka, topics: TopicSettings, tmp_path: Path) -> Shop:
    return Shop(kafka, topics, tmp_path)


def test_the_log_becomes_a_live_model_and_then_a_newer_one(shop: Shop) -> None:
    shop.clicks(400)
    first = shop.retrain()
    assert first.result == "published"
    assert shop.live == first.model_version is not None
    manifest = shop.registry.manifest(first.model_version)
    quality = manifest.metrics
    assert quality["candidate"]["recall_20"] > quality["popularity"]["recall_20"]
    assert quality["candidate"]["targets"] == quality["item-knn"]["targets"] > 50
    assert manifest.training["started_from"] is None
    OnnxScorer.load(shop.registry.fetch(first.model_version))

    shop.clicks(200, n_items=70)
    second = shop.retrain()
    assert second.result == "published", second.reason
    assert shop.live == second.model_version != first.model_version
    newer = open_bundle(shop.registry.fetch(second.model_version))
    assert newer.manifest.training["started_from"] == first.model_version
    assert "live" in newer.manifest.metrics
    older = open_bundle(shop.registry.fetch(first.model_version))
    assert newer.vocabulary.ids[: len(older.vocabulary)] == older.vocabulary.ids
    assert len(newer.vocabulary) > len(older.vocabulary)


def test_the_cosine_gru_is_trained_and_gone_on_from_and_a_change_of_kind_begins_anew(
    shop: Shop,
) -> None:
    """With a second stage where the held-out clicks are enough for one."""
    shop.clicks(1200)
    first = shop.retrain(architecture="cosine-gru", epochs=8, holdout_share=0.4)
    assert first.result == "published", first.reason
    bundle = open_bundle(shop.registry.fetch(str(first.model_version)))
    assert bundle.manifest.architecture == "cosine-gru"
    assert [tensor.name for tensor in bundle.manifest.state] == ["hidden", "recent"]
    assert first.report is not None
    found = first.report.second_stage
    assert found is not None
    assert found.lists > 300
    assert (bundle.ranker is not None) == (bundle.past is not None) == found.is_better
    OnnxScorer.of(bundle)

    shop.clicks(300)
    second = shop.retrain(architecture="cosine-gru")
    assert second.report is not None
    assert second.report.training.started_from == first.model_version
    shop.clicks(300)
    third = shop.retrain(architecture="gru4rec", second_stage=False)
    assert third.report is not None
    assert third.report.training.started_from is None
    assert third.report.second_stage is None


def newest_click_ms(shop: Shop) -> int:
    days = list(read_window(shop.settings.click_log))
    return max(max(day["event_time_ms"].to_pylist()) for day in days)


def test_what_is_published_has_learned_the_held_out_sessions_too(shop: Shop) -> None:
    """In a quiet night the held-out slice is hours long, and a news site's items are new every hour."""
    shop.clicks(400)
    shop.clicks(40, n_items=90)
    outcome = shop.retrain()
    assert outcome.result == "published", outcome.reason
    bundle = open_bundle(shop.registry.fetch(str(outcome.model_version)))
    assert bundle.manifest.metrics["candidate"]["cold_targets"] > 0
    assert max(int(item.removeprefix("item-")) for item in bundle.vocabulary.ids) > 65
    assert bundle.manifest.training["last_event_ms"] == newest_click_ms(shop)


def test_where_the_newest_sessions_make_it_worse_the_judged_model_is_published(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_right = quality_of_ranks(np.full(100, 10**6))
    monkeypatch.setattr("export.retrain.evaluate_bundle", lambda *_: nothing_right)
    shop.clicks(400)
    outcome = shop.retrain()
    assert outcome.result == "published"
    manifest = shop.registry.manifest(str(outcome.model_version))
    assert manifest.training["last_event_ms"] < newest_click_ms(shop) - 1000
    assert shop.live == outcome.model_version


def test_each_run_leaves_a_report_with_a_plot(shop: Shop) -> None:
    shop.clicks(300)
    outcome = shop.retrain()
    assert outcome.report_path is not None
    directory = Path(outcome.report_path).parent
    assert directory == Path(shop.settings.registry) / "reports" / str(outcome.model_version)
    page = (directory / "report.md").read_text()
    assert f"# Model `{outcome.model_version}`: published" in page
    assert "| candidate |" in page
    assert "| popularity |" in page
    assert (directory / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_worse_model_is_refused_and_the_live_one_stays(shop: Shop) -> None:
    shop.clicks(400)
    good = shop.retrain()
    shop.clicks(100)
    bad = shop.retrain(from_scratch=True, layer_units=1, epochs=1, warm_start=False)
    assert bad.result == "gated"
    assert "live model" in bad.reason
    assert shop.live == good.model_version
    assert shop.registry.versions() == [good.model_version]
    assert bad.report_path is not None
    assert "Refused" in Path(bad.report_path).read_text()


def test_too_few_sessions_are_waited_for(shop: Shop) -> None:
    empty = shop.retrain()
    assert (empty.result, empty.before_first_model) == ("waiting", True)
    shop.clicks(20)
    few = shop.retrain()
    assert "20 of 50 sessions" in few.reason
    assert shop.live is None


def test_without_news_nothing_is_trained(shop: Shop) -> None:
    """The live model has seen all but the held-out slice, and that one judges one model, not two."""
    shop.clicks(300)
    shop.retrain()
    again = shop.retrain(holdout_share=0.01)
    assert again.result == "waiting"
    assert "newer than what the live model learned" in again.reason


def test_items_nobody_clicks_any_more_leave_the_vocabulary(shop: Shop) -> None:
    shop.clicks(300, n_items=60)
    shop.retrain(window_days=1)
    shop._sessions += 2 * 86_400  # two days pass
    shop.clicks(300, n_items=50)
    outcome = shop.retrain(window_days=1)
    assert outcome.result == "published", outcome.reason
    assert outcome.report is not None
    assert outcome.report.retired_items == 10
    bundle = open_bundle(shop.registry.fetch(str(outcome.model_version)))
    assert len(bundle.vocabulary) == 50


def test_a_full_vocabulary_lets_the_least_clicked_items_go(shop: Shop) -> None:
    """The statistics go on answering for them; the gate knows that they were let go."""
    shop.clicks(300)
    shop.retrain(items_max=55)
    shop.clicks(200)
    outcome = shop.retrain(items_max=45)
    assert outcome.result == "published", outcome.reason
    bundle = open_bundle(shop.registry.fetch(str(outcome.model_version)))
    assert len(bundle.vocabulary) == 45
    assert bundle.manifest.training["started_from"] is not None


def test_a_live_bundle_that_is_gone_or_damaged_is_replaced_from_scratch(shop: Shop) -> None:
    shop.clicks(300)
    promote(shop.settings.kafka, shop.settings.topics.releases, "v-gone", reason="a test")
    outcome = shop.retrain()
    assert outcome.result == "published"
    assert outcome.report is not None
    assert outcome.report.training.started_from is None
    assert shop.live == outcome.model_version


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["read", "train", "item2vec", "export", "evaluate", "publish"])
def test_a_run_cut_off_after_any_step_changes_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from contextlib import contextmanager  # noqa: PLC0415 - local to this sabotage

    real = Run.step

    @contextmanager
    def cut_off(self: Run, name: str) -> Iterator[None]:
        with real(self, name):
            yield
        if name == step:
            raise Killed

    shop.clicks(120)
    monkeypatch.setattr(Run, "step", cut_off)
    with pytest.raises(Killed):
        shop.retrain(epochs=1)
    monkeypatch.undo()
    assert shop.live is None
    published = shop.registry.versions()
    assert published == [] or step == "publish"
    for version in published:
        OnnxScorer.load(shop.registry.fetch(version))
    data = shop.settings.data_dir
    assert not (data / "retrain").exists()


def start_retrain(shop: Shop, out: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "stream_app", "retrain", *flags),
        *("--registry", shop.settings.registry, "--click-log", shop.settings.click_log),
        *("--data-dir", str(shop.settings.data_dir)),
        *("--kafka-bootstrap-servers", shop.settings.kafka.bootstrap_servers),
        *("--set", f"topics.releases={shop.settings.topics.releases}"),
        *("--set", "retrain.layer_units=16", "--set", "retrain.sessions_min=50"),
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCLICK_")}
    with out.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def wait_for(words: bytes, out: Path, process: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + 180
    while words not in (said := out.read_bytes()):
        assert process.poll() is None, said.decode()
        assert time.monotonic() < deadline, said.decode()
        time.sleep(0.05)
    return said


def test_retraining_every_so_often_waits_publishes_and_tells_its_metrics(
    shop: Shop, tmp_path: Path
) -> None:
    shop.clicks(20)
    out = tmp_path / "out"
    process = start_retrain(shop, out, "--every", "1h")
    try:
        said = wait_for(b"nothing trained: 20 of 50 sessions", out, process)
        url = re.search(rb'"metrics_url": "([^"]+)"', said)
        assert url is not None
        shop.clicks(300)
        wait_for(b"is live", out, process)
        metrics = read(url[1].decode() + "/metrics")
        assert 'nextclick_retrain_runs_total{result="published"} 1.0' in metrics
        assert 'nextclick_retrain_recall_20{contender="candidate"}' in metrics
        assert '"ok"' in read(url[1].decode() + "/readyz")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert shop.live is not None


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_process_killed_in_the_middle_leaves_nothing_half_done(
    shop: Shop, tmp_path: Path
) -> None:
    shop.clicks(400)
    process = start_retrain(shop, tmp_path / "out", "--once", "--set", "retrain.epochs=10000")
    try:
        wait_for(b"training from scratch", tmp_path / "out", process)
        time.sleep(0.3)
    finally:
        process.kill()
        process.wait()
    assert (shop.settings.data_dir / "retrain").exists(), "nothing was under way"
    assert shop.registry.versions() == []
    assert shop.live is None
    assert shop.retrain().result == "published"


def test_two_retrainings_do_not_share_a_directory(shop: Shop) -> None:
    import fcntl  # noqa: PLC0415 - plays the other process

    shop.settings.data_dir.mkdir()
    with (shop.settings.data_dir / "retrain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="another retrain is at work"):
            shop.retrain()


def test_a_registry_that_cannot_be_written_is_found_before_the_training(
    shop: Shop, tmp_path: Path
) -> None:
    shop.clicks(300)
    (tmp_path / "registry").write_text("a file is in the way")
    with pytest.raises(ConfigurationError, match=r"cannot write to registry .*--registry"):
        shop.retrain()
