"""Reference of the records: what crosses a topic or lies in a file, field by field."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from stream_app.adapters.kafka_topics import plan_topics
from stream_app.adapters.releases import Release
from stream_app.core import clicks, item_attributes, item_records
from stream_app.core.manifest import DeltaOf, ModelManifest, Scoring, SecondStage, StateTensor
from stream_app.core.records import ClickSource, DeadLetter, Recommendation, ScoredItem
from stream_app.core.session import SessionState
from stream_app.core.session_neighbours import SessionKNNConfig
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_records import VersionMarker
from stream_app.files.click_log import LOG_COLUMNS
from stream_app.settings import Settings, TopicSettings
from tests.reference.source import code, fields, meanings, said_of_json, table

GOLDEN = Path(__file__).parents[1] / "golden" / "recommendations.jsonl"

CLICK = f"""
JSON on the click topic, one object a message; the message key is the session id, so that all clicks of a session are in
one partition. Ids may look like anything and are at most {clicks.ID_BYTES_MAX} bytes of UTF-8; numbers are taken and turned into text.
Fields that are not named here are ignored.
"""
ITEM = f"""
JSON on the items topic under the item's id: what the shop knows of an item, so that it can be recommended before anybody
clicks it. The newest record of a key counts; one without a value withdraws the item. At most {item_attributes.ATTRIBUTES_MAX} attributes and
{item_attributes.VALUE_BYTES_MAX // 1024} KiB. A record that cannot be read is passed over, and `nextclick items show` says why.
Fields that are not named here are ignored.
"""
RECOMMENDATION = """
JSON on the recommendations topic: the answer to one click, in the partition of the click and under its key. A click is
answered at least once; an answer that is given again has the same `recommendation_id`.
"""
DEAD_LETTER = """
A click that cannot be used: key, value and headers are those of the click, untouched, and these headers are added. The
values of `nextclick-error` are a closed set, and a label of `nextclick_dead_letters_total`.
"""
RELEASE = """
JSON on the releases topic under the key `live`: which model version answers from now on. `nextclick models promote` and
`nextclick models rollback` write it, and so does `nextclick retrain`.
"""
STATISTICS = """
What the aggregator publishes, each version in one Kafka transaction: the items that changed under `item/<item id>`, then
the marker under `version/<n>`. Older markers are gathered under `history/<first>/<last>/<ms>` as compressed JSON.
"""
STATISTICS_RECIPE = """
`recipe` of a marker: what decides how the same clicks are counted. With another one counting begins anew.
"""
SESSION = """
The changelog: a binary record per session (its layout is told in `stream_app/core/codec.py`; the first byte is the version), under the
session id. `nextclick session ID` shows one, `nextclick session --export FILE` all of them as JSON lines.
A removed session is a tombstone with the header `nextclick-applied-offset`.
"""
MANIFEST = """
`manifest.json` of a model bundle. It is read, and every file checked against it, before a version may be live.
"""
CLICK_LOG = """
Columns of the Parquet files that `nextclick archive` writes, by day of event time:
`day=YYYY-MM-DD/<topic>-<partition>-<first>-<last>.<i>of<k>.parquet` holds part `i` of the `k` days that offsets
`first` to `last` of a partition touch. A range counts once all its parts are there.
"""


def page() -> Iterator[str]:
    """A section per record."""
    yield "# Records"
    yield ""
    yield "What the topics carry, and what lies in files. Names are a contract: fields are added, none is renamed or re-typed."
    yield ""
    yield "## Topics"
    yield ""
    yield from _topics()
    yield from _section("Click", CLICK, clicks._WireClick)
    yield from _section("Item", ITEM, item_attributes._WireItem)
    yield from _section("Recommendation", RECOMMENDATION, Recommendation)
    yield ""
    yield "`source` is:"
    yield ""
    yield from _fields(ClickSource)
    yield ""
    yield "Each of `items`:"
    yield ""
    yield from _fields(ScoredItem)
    yield ""
    yield "For example:"
    yield ""
    yield "```json"
    yield json.dumps(json.loads(GOLDEN.read_text().splitlines()[0]), indent=1, ensure_ascii=False)
    yield "```"
    yield from _dead_letter()
    yield from _section("Release", RELEASE, Release)
    yield ""
    yield "## Statistics: an item"
    yield STATISTICS
    yield "```text"
    yield from (item_records.__doc__ or "").strip().splitlines()
    yield "```"
    yield from _section("Statistics: the marker of a version", "", VersionMarker)
    yield from _section("Statistics: the recipe", STATISTICS_RECIPE, StatisticsRecipe)
    yield from _section("Session", SESSION, SessionState)
    yield from _section("Model manifest", MANIFEST, ModelManifest)
    yield from _section("Model manifest: a state tensor", "", StateTensor)
    yield from _section("Model manifest: scoring", "", Scoring)
    yield from _section("Model manifest: the second stage", "", SecondStage)
    yield from _section("Model manifest: neighbours of a session", "", SessionKNNConfig)
    yield from _section("Model manifest: a refreshed model", "", DeltaOf)
    yield ""
    yield "## Click log"
    yield CLICK_LOG
    yield from table(
        ("column", "type", "null"),
        (
            (code(c.name), _column_type(c.type), "may be" if c.nullable else "never")
            for c in LOG_COLUMNS
        ),
    )


def _column_type(column: pa.DataType) -> str:
    return str(column.value_type if pa.types.is_dictionary(column) else column)


def _topics() -> Iterator[str]:
    told = meanings(TopicSettings)
    topics = Settings().topics
    what = {
        getattr(topics, name): text
        for name, text in told.items()
        if isinstance(getattr(topics, name), str)
    }
    yield from table(
        ("topic (default name)", "partitions", "meaning", "created with"),
        (
            (
                code(plan.name),
                "1" if plan.partitions == 1 else "`topics.partitions`",
                what[plan.name],
                ", ".join(code(f"{name}={value}") for name, value in plan.configs.items()),
            )
            for plan in plan_topics(topics, {})
        ),
    )


def _section(title: str, intro: str, record: type) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield intro
    yield from _fields(record)


def _fields(record: type) -> Iterator[str]:
    yield from table(
        ("field", "type", "default", "meaning"),
        (
            (code(f.name), _in_json(f.type), code(_default(f.default)), said_of_json(f.meaning))
            for f in fields(record)
        ),
    )


_JSON_WORDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "bytes": "bytes",
    "None": "null",
    "ItemId": "text",
    "list[str]": "list of texts",
    "_Attributes": "object of texts, numbers, truth values, or lists of them",
    "msgspec.Raw": "any JSON",
    "_Positive": "number above 0",
    "_Moment": "whole number",
    "_NotNegative": "number from 0",
    "_Share": "number from 0 to 1",
    "_Count": "whole number from 1",
    "StatisticsRecipe": "object, below",
    "dict[_Digits, tuple[int, _Moment]]": "object of pairs of whole numbers",
    "dict[str, Any]": "object",
    "dict[str, str]": "object of texts",
    "dict[_Digits, int]": "object of whole numbers",
    "ClickSource": "object, below",
    "Scoring": "object, below",
    "DeltaOf": "object, below",
    "SecondStage": "object, below",
    "SessionKNNConfig": "object, below",
    "StateTensor": "object, below",
    "ScoredItem": "object, below",
}
"""Types of the source as a reader of JSON calls them; one that is not here is an error."""


def _in_json(annotation: str) -> str:
    """A type in words."""
    if annotation.startswith("Literal["):
        return annotation.removeprefix("Literal[").removesuffix("]").replace("'", "")
    for opening, closing in (("list[", "]"), ("tuple[", ", ...]")):
        if annotation.startswith(opening) and annotation.endswith(closing):
            inner = annotation.removeprefix(opening).removesuffix(closing)
            return f"list of: {_in_json(inner)}"
    if annotation == "str | int | float | None":
        return "text or number"
    return " or ".join(_JSON_WORDS[part] for part in annotation.split(" | "))


def _default(text: str) -> str:
    """Defaults as JSON has them; those that say nothing are left out."""
    shown = {"None": "null", "True": "true", "False": "false"}
    return shown.get(text, "" if not text[:1].isdigit() else text)


def _dead_letter() -> Iterator[str]:
    yield ""
    yield "## Dead letter"
    yield DEAD_LETTER
    letter = DeadLetter(
        source=ClickSource("nextclick.clicks.v1", 2, 1317),
        timestamp_ms=1_795_518_733_456,
        key=None,
        value=None,
        headers=(),
        error="BadEventTime",
        message="event_time 1795518733 is before the year 2000; it looks like seconds: ...",
    )
    yield from table(
        ("header", "for example"),
        ((code(name), code(value.decode())) for name, value in letter.all_headers()),
    )
