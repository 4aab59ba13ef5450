"""Every place where bytes of a stranger are taken apart, and what may come out: a value, or these errors."""

import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from export.graphs import step_graph
from stream_app.adapters.releases import decode_release
from stream_app.core.clicks import decode_click
from stream_app.core.codec import applied_offset, check_record, decode_state, encode_state
from stream_app.core.errors import (
    BadRecordError,
    BundleError,
    ClickFileError,
    ConfigurationError,
    ForeignRecordError,
    StateDecodeError,
)
from stream_app.core.manifest import ModelManifest
from stream_app.core.pipeline import ServingRules
from stream_app.core.session import SessionState
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_counts import StatisticsCounts
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_records import StatisticsFold, decode_history, decode_marker
from stream_app.core.statistics_table import StatisticsTable
from stream_app.core.statistics_view import VersionTotals
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.files.bundle import _graph_problems
from stream_app.files.bundle_delta import apply_delta, make_delta
from stream_app.files.click_files import is_sequences, iter_clicks, read_sequences, read_table
from stream_app.settings import load_settings
from stream_app.tools.dead_letters import preview
from stream_app.tools.live_numbers import LiveNumbers, StreamTopics
from tests.bundles import random_weights, refreshed

TOPIC_ID: Final = bytes(range(16))
CORPUS: Final = Path(__file__).parents[1] / "corpus"
"""`<decoder>/<name>`: what was found once, replayed for ever."""


@dataclass(frozen=True)
class Decoder:
    decode: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    examples: tuple[bytes, ...]
    """Valid ones, to be mutated."""


def decoders() -> dict[str, Decoder]:
    """By name; the directory of its corpus is called so."""
    click = {
        "event_id": "e1",
        "event_type": "view_item",
        "event_time": 1_764_000_000_000,
        "session_id": "s1",
        "visitor_id": 17,
        "item_id": "a",
        "user_id": "u",
        "recommendation_id": "clicks-0-1",
        "consent": True,
        "properties": {"title": "Tent"},
        "schema_version": 1,
    }
    marker = {
        "version": 7,
        "topic": "clicks",
        "topic_id": "00",
        "offsets": {"0": 17},
        "watermark": 1_764_000_000_000,
        "half_life_minutes": 60.0,
        "items_max": 100,
        "total_count": 3.5,
        "clicks": 9,
        "items": 2,
        "published_at": 1_764_000_000_000,
        "recipe": {"half_life_minutes": 60.0, "pair_weights": [0.7, 0.3]},
        "began": 1,
        "totals": [3.5, 1.0, 1.0, 1.0],
        "follow_up_total": 1.0,
        "follow_up_watermark": 1_764_000_000_000,
        "sessions": {"0": [3, 1_764_000_000_000]},
    }
    items = _item_records()
    release = {
        "model_version": "v1",
        "released_at": "2026-11-24T11:12:13Z",
        "previous": None,
        "reason": "gate",
        "history": ["v0"],
    }
    manifest = {
        "format_version": 1,
        "model_version": "20261124T111132Z-3f2a",
        "created_at": "2026-11-24T11:11:32Z",
        "architecture": "gru4rec",
        "hyperparameters": {"units": 4},
        "state": [{"name": "hidden", "shape": [1, 4], "dtype": "float16"}],
        "n_items": 3,
        "vocabulary_sha256": "0" * 64,
        "files": {"step.onnx": "0" * 64},
        "scoring": {"method": "int8", "recall_20": 0.999},
    }
    bad_record, bad_bundle = (BadRecordError,), (BundleError,)
    lines = (json.dumps(click) + "\n").encode() * 2
    return {
        "click": Decoder(decode_click, bad_record, (json.dumps(click).encode(),)),
        "state": Decoder(decode_state, (StateDecodeError,), _states()),
        "record": Decoder(_check_record, (StateDecodeError, ForeignRecordError), _states()),
        "item-statistic": Decoder(_read_item, bad_record, tuple(items.values())),
        "version-marker": Decoder(decode_marker, bad_record, (json.dumps(marker).encode(),)),
        "history": Decoder(
            decode_history, bad_record, (zlib.compress(json.dumps([marker, marker]).encode()),)
        ),
        "statistics": Decoder(
            _fold,
            bad_record,
            (
                b"item/a\n" + b'{"version": 7, "count": 3.25, "time": 1396000000000}',
                b"item/b\n" + items["b"],
                b"version/7\n" + json.dumps(marker).encode(),
                b"history/1/7/1764000000000\n" + zlib.compress(json.dumps([marker]).encode()),
            ),
        ),
        "release": Decoder(decode_release, bad_record, (json.dumps(release).encode(),)),
        "manifest": Decoder(ModelManifest.from_json, bad_bundle, (json.dumps(manifest).encode(),)),
        "vocabulary": Decoder(ItemVocabulary.from_json, bad_bundle, (b'["a", "b", "\\u00e9"]',)),
        "delta": Decoder(_apply_delta, bad_bundle, (make_delta(_delta_base(), _delta_base(2)),)),
        "graph": Decoder(_check_graph, (), _graphs()),
        "settings": Decoder(
            _settings,
            (ConfigurationError,),
            (
                b'registry = "r"\n[kafka]\nsasl_password = "secret"\n[session]\nhistory_len_max = 9\n',
            ),
        ),
        "answer": Decoder(_watch("recommendations"), (), (_answer(),)),
        "watched-click": Decoder(_watch("clicks"), (), (json.dumps(click).encode(),)),
        "dead-letter": Decoder(_watch("dead-letters"), (), (b"0\n17", b"17\n0")),
        "preview": Decoder(preview, (), (b'{"a": "\x1b[31m"}',)),
        "click-file": Decoder(
            _click_file,
            (ClickFileError,),
            (
                lines,
                b"session_id,item_id,event_time\ns1,a,1764000000000\ns1,b,1764000001000\n",
                b"session_id\titem_id\tevent_time\ns1\ta\t2025-11-24T11:12:13Z\n",
                b"timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n",
                b"1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,0\n",
                b"420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n",
                b"sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n",
                b'{"session":1,"events":[{"aid":15,"ts":1659304800025,"type":"clicks"}]}\n',
                _parquet(
                    session_id=["s1"], item_id=["a"], event_time=pa.array([1_764_000_000_000])
                ),
                _parquet(session_id=["s1"], item_id=["a"], position=pa.array([0]), split=["train"]),
            ),
        ),
    }


def found(name: str) -> list[Path]:
    """The corpus of a decoder."""
    directory = CORPUS / name
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _states() -> tuple[bytes, ...]:
    plain = SessionState(
        last_offset=17,
        start_ms=1_764_000_000_000,
        last_event_ms=1_764_000_060_000,
        click_count=3,
        window_start_ms=1_764_000_000_000,
        window_clicks=3,
        recent_item_ids=("a", "item-2", "é"),  # type: ignore[arg-type]
        recent_event_hashes=(1, 2**64 - 1),
        shown_hashes=b"\x01\x02\x03\x04" * 3,
        shown_model_version="v1",
        model_version="v2",
        model_state=b"\x00\x3c" * 4,
    )
    return (encode_state(plain, TOPIC_ID),)


def _delta_base(seed: int = 1) -> dict[str, bytes]:
    """Files that two models of one shape have; different seeds differ in a few rows."""
    weights = refreshed(random_weights(40, 8), changed=[seed], added=seed - 1)
    return {
        "step.onnx": step_graph(weights).SerializeToString(),
        "weights.safetensors": safetensors.numpy.save({"output_matrix": weights.output_matrix}),
        "vocabulary.json": json.dumps([f"item-{i}" for i in range(39 + seed)]).encode(),
    }


def _apply_delta(data: bytes) -> None:
    base = _delta_base()
    dict(apply_delta(lambda name: base.get(name, b""), data))


def _check_record(data: bytes) -> None:
    """The quick check must say what the whole decoder says."""
    offset = check_record(data, TOPIC_ID)
    state, topic_id = decode_state(data)
    assert (state.last_offset, topic_id) == (offset, TOPIC_ID)
    assert applied_offset(data) == offset


def _fold(data: bytes) -> None:
    """A record of the statistics topic, and what a reader does with what it took."""
    key, _, value = data.partition(b"\n")
    fold = StatisticsFold()
    fold.take(key, value or None)
    fold.versions()
    if fold.marker is not None and fold.marker.recipe is not None:
        marker, recipe = fold.marker, fold.marker.recipe
        totals = VersionTotals(
            marker.version,
            marker.watermark or 0,
            marker.totals,
            marker.follow_up_total,
            marker.follow_up_watermark,
        )
        StatisticsTable(recipe).apply({}, totals).associated([["a"]], 5)


def _item_records() -> dict[str, bytes]:
    clicks = [
        SessionClick(0, n, "s", item_id, 1_764_000_000_000 + n, True)
        for n, item_id in enumerate("abc")
    ]
    records = StatisticsCounts(StatisticsRecipe()).fold(clicks, version=7)
    return {item_id: value for item_id, value in records.items() if value is not None}


def _read_item(data: bytes) -> None:
    """An item's record as a reader takes it, beside good ones, and everything it would be asked for."""
    fold = StatisticsFold()
    fold.take(b"item/x", data)
    totals = VersionTotals(7, 1_764_000_000_002, (3.0,) * 4, 2.0, 1_764_000_000_002)
    table = StatisticsTable(StatisticsRecipe())
    table.apply(dict(_item_records()), totals)
    view = table.apply({"x": data}, totals)
    view.top(5)
    view.associated([["x"], ["a", "x"]], 5)


def _graphs() -> tuple[bytes, ...]:
    from export.graphs import step_graph  # noqa: PLC0415 - onnx takes a second

    return (step_graph(random_weights(3, 2)).SerializeToString(),)


def _check_graph(data: bytes) -> None:
    list(_graph_problems("step.onnx", data, {}, {}))


def _settings(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(data)
        repr(load_settings({}, environment={}, file=Path(file.name)))


def _answer() -> bytes:
    return json.dumps(
        {
            "recommendation_id": "clicks-0-17",
            "session_id": "s1",
            "source": {"topic": "clicks", "partition": 0, "offset": 17},
            "model_version": "v1",
            "statistics_version": 3,
            "generated_at": "2026-11-24T11:12:13.456Z",
            "latency_ms": 4,
            "items": [{"item_id": "a", "score": 1.5, "rank": 1}],
            "fallback": None,
        }
    ).encode()


def _watch(topic: str) -> Callable[[bytes], None]:
    """A record as `nextclick watch` takes it, after a good one; then everything it would show."""

    def take(data: bytes) -> None:
        numbers = LiveNumbers(
            StreamTopics("clicks", "recommendations", "dead-letters"),
            ServingRules(),
            half_life_ms=60_000.0,
            popularity_items_max=100,
        )
        numbers.take([_record("clicks", _click_of("a"), 16)], 1.0)
        headers: list[tuple[str, bytes]] = []
        if topic == "dead-letters":
            partition, _, offset = data.partition(b"\n")
            headers = [
                ("nextclick-original-partition", partition),
                ("nextclick-original-offset", offset),
            ]
        numbers.take([_record(topic, data, 17, headers)], 2.0)
        numbers.take([_record("clicks", _click_of("b"), 18)], 9.0)
        numbers.popularity_quality()
        numbers.clicks_per_second(10.0)

    return take


def _click_of(item_id: str) -> bytes:
    return json.dumps(
        {"session_id": "s1", "item_id": item_id, "event_time": 1_764_000_000_000}
    ).encode()


def _record(topic: str, value: bytes, offset: int, headers: Any = ()) -> Any:
    return SimpleNamespace(
        topic=topic,
        partition=0,
        offset=offset,
        timestamp=1_764_000_000_000,
        key=b"s1",
        value=value,
        headers=headers,
    )


def _click_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "clicks")
        path.write_bytes(data)
        if is_sequences(path):
            read_sequences(path)
            return
        table = read_table(path)
        assert table.num_rows == sum(1 for _ in iter_clicks(path))


def _parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())
