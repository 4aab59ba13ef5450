"""The simulator without a broker: files, bad clicks, reports."""

import json
from pathlib import Path

import pytest

from stream_app.core.clicks import decode_click
from stream_app.core.errors import BadRecordError, ConfigurationError
from stream_app.files.click_files import iter_clicks
from stream_app.settings import Settings
from stream_app.shop.shop import Shop
from stream_app.tools.simulate import SimulationPlan, simulate

T = 1_700_000_000_000


def test_a_file_holds_the_clicks_of_the_shop(tmp_path: Path) -> None:
    out, report = tmp_path / "c.jsonl", tmp_path / "r.json"
    said: list[str] = []
    plan = SimulationPlan(seconds=20, seed=3, out=out, start_ms=T, report=report)
    simulate(Settings(), plan, said.append)
    shop = Shop(seed=3, start_ms=T)
    clicks = list(shop.clicks_until(T + 20_000))
    assert list(iter_clicks(out)) == clicks
    facts = json.loads(report.read_text())
    assert facts["clicks"] == len(clicks)
    assert facts["best_possible_hit_rate_20"] == pytest.approx(shop.hit_rate_20(), abs=1e-5)
    assert facts["best_possible_targets"] == shop.best_possible.targets > 1000
    assert f"{len(clicks):,} clicks" in said[-1]


def test_bad_clicks_come_on_top_and_are_bad_in_many_ways(tmp_path: Path) -> None:
    plan = SimulationPlan(seconds=30, bad_share=0.1, out=tmp_path / "c.jsonl", start_ms=T)
    report = simulate(Settings(), plan, lambda _: None)
    good, kinds = [], []
    for line in (tmp_path / "c.jsonl").read_bytes().split(b"\n")[:-1]:
        try:
            good.append(decode_click(line, kafka_timestamp_ms=T))
        except BadRecordError as error:
            kinds.append(error.kind)
    assert len(kinds) == report.bad_clicks > 100
    assert len(good) + len(kinds) == report.clicks
    assert set(kinds) == {
        *("MalformedJson", "NotUtf8", "MissingField", "WrongType", "BadEventTime", "BadId")
    }
    assert good == list(Shop(start_ms=T).clicks_until(T + 30_000))


def test_a_file_needs_an_end_and_must_be_writable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--seconds"):
        simulate(Settings(), SimulationPlan(out=tmp_path / "c.jsonl"), lambda _: None)
    plan = SimulationPlan(out=tmp_path, seconds=1)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        simulate(Settings(), plan, lambda _: None)
