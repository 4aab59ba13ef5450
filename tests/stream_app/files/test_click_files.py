"""Every click format, read whole and click by click; and what a user is told about a bad file."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_app.core.clicks import encode_click
from stream_app.core.errors import ClickFileError, ConfigurationError
from stream_app.core.records import Click
from stream_app.files import click_files
from stream_app.files.click_files import (
    CLICK_COLUMNS,
    count_clicks,
    detect_format,
    is_sequences,
    iter_clicks,
    parse_columns,
    read_sequences,
    read_table,
)
from stream_app.shop.shop import Shop

T = 1_700_000_000_000
"""2023-11-14T22:13:20Z."""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def essence(table: pa.Table) -> list[tuple[Any, ...]]:
    """Session, item, time, type of each row."""
    names = ("session_id", "item_id", "event_time_ms", "event_type")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def refusal(path: Path, **options: Any) -> str:
    """What both readers say of the file; they say the same."""
    with pytest.raises(ClickFileError) as whole:
        read_table(path, **options)
    with pytest.raises(ClickFileError) as streamed:
        list(iter_clicks(path, **options))
    assert str(whole.value) == str(streamed.value)
    return str(whole.value)


EXPECTED = [
    ("1", "a", T, "view_item"),
    ("2", "b", T + 1000, "add_to_cart"),
    ("1", "c", T + 2000, "purchase"),
]

JSON_LINES = (
    f'{{"session_id": 1, "item_id": "a", "event_time": {T}}}\n'
    f'{{"visitor_id": "2", "item_id": "b", "event_time": "2023-11-14T22:13:21Z", "event_type": "add_to_cart"}}\n'
    f'{{"session_id": "1", "item_id": "c", "event_time": {T + 2000}, "event_type": "purchase", "new": 1}}\n'
)
CSV = (
    "session_id,item_id,timestamp_ms,event_type,note\n"
    f"1,a,{T},view_item,\n2,b,{T + 1000},add_to_cart,\n1,c,{T + 2000},purchase,\n"
)
RETAILROCKET = (
    "timestamp,visitorid,event,itemid,transactionid\n"
    f"{T},1,view,a,\n{T + 1000},2,addtocart,b,\n{T + 2000},1,transaction,c,17\n"
)
OTTO = (
    f'{{"session":1,"events":[{{"aid":10,"ts":{T},"type":"clicks"}},'
    f'{{"aid":12,"ts":{T + 2000},"type":"orders"}}]}}\n'
    f'{{"session":2,"events":[{{"aid":11,"ts":{T + 1000},"type":"carts"}}]}}\n'
)
DIGINETICA = (
    "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;79000001;2023-11-14\n"
    "1;7;31331;80000000;2023-11-14\n"
)
REES46 = (
    "event_time,event_type,product_id,category_id,price,user_id,user_session\n"
    "2023-11-14 22:13:20 UTC,view,a,1,2.5,900,1\n"
    "2023-11-14 22:13:21 UTC,cart,b,1,2.5,901,2\n"
    "2023-11-14 22:13:22 UTC,purchase,c,1,2.5,900,1\n"
)


@pytest.mark.parametrize(
    ("name", "text", "format", "expected"),
    [
        ("clicks.jsonl", JSON_LINES, "jsonl", EXPECTED),
        ("clicks.csv", CSV, "csv", EXPECTED),
        ("clicks.tsv", CSV.replace(",", "\t"), "tsv", EXPECTED),
        ("semicolon.csv", CSV.replace(",", ";"), "csv", EXPECTED),
        ("windows.csv", "\ufeff" + CSV.replace("\n", "\r\n"), "csv", EXPECTED),
        ("no-newline-at-the-end.csv", CSV[:-1], "csv", EXPECTED),
        ("events.csv", RETAILROCKET, "retailrocket", EXPECTED),
        ("rees46.csv", REES46, "csv", EXPECTED),
        (
            "otto.jsonl",
            OTTO,
            "otto",
            [(s, i, t, e) for (s, _, t, e), i in zip(EXPECTED, ("10", "11", "12"), strict=True)],
        ),
        (
            "yoochoose-clicks.dat",
            "1,2023-11-14T22:13:20.000Z,214,0\n2,2023-11-14T22:13:21.500Z,215,S\n",
            "yoochoose",
            [("1", "214", T, "view_item"), ("2", "215", T + 1500, "view_item")],
        ),
        (
            "yoochoose-buys.dat",
            "1,2023-11-14T22:13:20.000Z,214,1046,1\n",
            "yoochoose",
            [("1", "214", T, "purchase")],
        ),
        (
            "train-item-views.csv",
            DIGINETICA,
            "diginetica",
            [
                ("1", "81766", T - 1_000_000 + 1, "view_item"),
                ("1", "31331", T, "view_item"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_each_format_is_told_by_content_and_read_alike_both_ways(
    tmp_path: Path,
    name: str,
    text: str,
    format: str,  # noqa: A002 - the name of the option
    expected: list[tuple[Any, ...]],
    packed: bool,
) -> None:
    raw = gzip.compress(text.encode()) if packed else text.encode()
    path = write(tmp_path / "told-by-content-not-by-name", raw)
    assert detect_format(path) == format, name
    table = read_table(path)
    assert table.schema.equals(CLICK_COLUMNS)
    assert essence(table) == expected
    assert essence(read_table(path, format=format)) == expected
    clicks = list(iter_clicks(path))
    assert [(c.session_id, c.item_id, c.event_time_ms, c.event_type) for c in clicks] == expected
    assert all(c.consent for c in clicks)


def test_users_are_kept_and_missing_ones_are_null(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.csv",
        "sessionId;userId;itemId;timeframe;eventdate\n1;NA;8;1;2023-11-14\n2;7;9;2;2023-11-14\n",
    )
    assert read_table(path)["user_id"].to_pylist() == [None, "7"]
    path = write(tmp_path / "r.csv", REES46)
    assert read_table(path)["user_id"].to_pylist() == ["900", "901", "900"]


@pytest.mark.parametrize(
    ("time_type", "values"),
    [
        (pa.int64(), [T + 1, T]),
        (pa.int64(), [(T + 1) * 1_000_000, T * 1_000_000]),
        (pa.int64(), [(T + 1) * 1000, T * 1000]),
        (pa.float64(), [(T + 1) / 1000, T / 1000]),
        (pa.string(), [str(T + 1), str(T)]),
        (pa.string(), [str((T + 1) / 1000), str(T / 1000)]),
        (pa.string(), ["2023-11-14 22:13:20.001", "2023-11-14 22:13:20"]),
        (pa.string(), ["2023-11-14T23:13:20.001+01:00", "2023-11-14T22:13:20Z"]),
        (pa.string(), ["2023-11-14T22:13:20.001Z", "2023-11-14 22:13:20"]),
        (
            pa.timestamp("us"),
            [T * 1000 + 1000, T * 1000],
        ),
        (
            pa.timestamp("ns", "Europe/Paris"),
            [(T + 1) * 1_000_000, T * 1_000_000],
        ),
    ],
)
def test_times_of_any_kind_become_milliseconds(
    tmp_path: Path, time_type: pa.DataType, values: list[Any]
) -> None:
    """Seconds, ms, us, ns, ISO 8601 with and without a zone, Parquet timestamps."""
    table = pa.table(
        {
            "SessionId": pa.array([1, 2], pa.int32()),
            "ItemId": pa.array(["x", "y"]).dictionary_encode(),
            "Time": pa.array(values, time_type),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert essence(read_table(tmp_path / "t.parquet")) == [
        ("2", "y", T, "view_item"),
        ("1", "x", T + 1, "view_item"),
    ]
    assert count_clicks(tmp_path / "t.parquet") == 2


def test_columns_are_taken_as_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", f"visitor,sku,ts,when\nv1,x,17,{T}\n")
    columns = {"session_id": "visitor", "item_id": "sku", "event_time": "when"}
    assert essence(read_table(path, columns=columns)) == [("v1", "x", T, "view_item")]
    # By their names `visitor` and `sku` are found too, but `ts` would be taken for the time.
    assert "column ts" in refusal(path)
    columns["visitor_id"] = columns.pop("session_id")
    assert essence(read_table(path, columns=columns)) == [("v1", "x", T, "view_item")]


def test_a_mapping_is_written_in_pairs() -> None:
    assert parse_columns("item_id=sku, session_id = v ") == {"item_id": "sku", "session_id": "v"}
    assert parse_columns(None) == parse_columns("") == {}
    with pytest.raises(ConfigurationError, match="write OURS=COLUMN pairs"):
        parse_columns("item_id")


def test_clicks_of_the_same_moment_stay_in_file_order(tmp_path: Path) -> None:
    rows = "".join(f"s,{number},{T - number // 10}\n" for number in range(50))
    path = write(tmp_path / "c.csv", "session,item,time\n" + rows)
    order = [int(item) for item in read_table(path)["item_id"].to_pylist()]
    assert order == [*range(40, 50), *range(30, 40), *range(20, 30), *range(10, 20), *range(10)]
    assert [int(click.item_id) for click in iter_clicks(path)] == order
    assert [int(click.item_id) for click in iter_clicks(path, order="file")] == list(range(50))


def test_a_file_longer_than_memory_allows_is_sorted_through_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same clicks, same order, from runs on disk."""
    clicks = list(Shop(seed=2, start_ms=T).clicks_until(T + 8_000))
    shuffled = clicks[500:] + clicks[:500]
    path = write(tmp_path / "c.jsonl", b"\n".join(map(encode_click, shuffled)))
    expected = list(iter_clicks(path))
    monkeypatch.setattr(click_files, "RUN_ROWS", 100)
    monkeypatch.setattr("stream_app.files.click_readers.BATCH_ROWS", 60)
    assert list(iter_clicks(path)) == expected
    assert sorted(expected, key=lambda c: c.event_id or "") == sorted(
        clicks, key=lambda c: c.event_id or ""
    )


def test_json_lines_keep_everything_a_click_carries(tmp_path: Path) -> None:
    clicks: list[Click] = list(Shop(seed=2, start_ms=T).clicks_until(T + 3_000))
    path = write(tmp_path / "c.jsonl", b"\n".join(map(encode_click, clicks)) + b"\n")
    assert list(iter_clicks(path)) == clicks


def test_a_span_of_time_is_cut_out(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", CSV)
    cut = list(iter_clicks(path, start_ms=T + 1000, end_ms=T + 2000))
    assert [click.item_id for click in cut] == ["b"]


# --- sequences ----------------------------------------------------------------------------------


def sequences(path: Path, **changes: list[Any]) -> Path:
    columns = {
        "session_id": [1, 1, 0, 0],
        "item_id": [10, 11, 12, 13],
        "position": [1, 0, 0, 1],
        "split": ["train", "train", "test", "test"],
        **changes,
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_sequences_are_read_in_order_of_file_and_position(tmp_path: Path) -> None:
    path = sequences(tmp_path / "s.parquet")
    assert is_sequences(path)
    assert detect_format(path) == "sequences"
    table = read_sequences(path)
    assert table["session_id"].to_pylist() == ["1", "1", "0", "0"]
    assert table["item_id"].to_pylist() == ["11", "10", "12", "13"]
    assert table["position"].to_pylist() == [0, 1, 0, 1]
    assert not is_sequences(write(tmp_path / "c.csv", CSV))


def test_sequences_cannot_be_replayed_and_need_a_proper_split(tmp_path: Path) -> None:
    path = sequences(tmp_path / "s.parquet", split=["train", "train", "dev", "test"])
    assert "without a clock" in refusal(path)
    with pytest.raises(ClickFileError, match=r"column split.*'dev'.*write train or test"):
        read_sequences(path)
    with pytest.raises(ClickFileError, match="holds no sequences"):
        read_sequences(write(tmp_path / "c.csv", CSV))


# --- bad files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (JSON_LINES[:-20], "line 3: the file ends in the middle of this line"),
        (CSV[:-15], "line 4: the file ends in the middle of this line"),
        (OTTO[:-9], "line 2: the file ends in the middle of this line"),
        (
            CSV.replace(f"2,b,{T + 1000},add_to_cart,", "2,b"),
            "line 3: has 2 fields where 5 are expected",
        ),
        (CSV.replace("2,b,", "2,,"), "line 3, column item_id: nothing is written here"),
        (CSV.replace(f"b,{T + 1000}", "b,soon"), "line 3, column timestamp_ms: 'soon' is no time"),
        (
            CSV.replace(f"b,{T + 1000}", "b,-5"),
            "line 3, column timestamp_ms: the time is not between",
        ),
        (CSV.replace(f"b,{T + 1000}", "b,9999-12-31T00:00:00Z"), "line 3, column timestamp_ms"),
        (CSV.replace(f"b,{T + 1000}", "b,253402214400000"), "line 3, column timestamp_ms"),
        (CSV.replace(",b,", f",{'x' * 600},"), "line 3, column item_id: the id is longer than 512"),
        (CSV.replace("\n2,b", "\n\n\n2,\n"), "line 5"),
        (
            CSV.encode().replace(b",b,", b",\xff\xfe,"),
            "line 3, column item_id: the text is not UTF-8",
        ),
        (CSV.encode().replace(b"item_id", b"item\xe4"), "line 1: byte 16 is not UTF-8"),
        (CSV.encode("utf-16"), "line 1: is UTF-16: save it as UTF-8"),
        (CSV.splitlines()[0] + "\n", "holds a header but no clicks"),
        (CSV.splitlines()[0], "holds a header but no clicks"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("hello world\nno clicks here\n", "like none of the known formats"),
        ("[" + JSON_LINES.replace("\n", ",") + "]", "one JSON array: write one JSON object a line"),
        (JSON_LINES.replace('"b"', "null"), "line 2: item_id is not given"),
        (JSON_LINES.encode().replace(b'"b"', b'"\xff"'), "line 2: byte "),
        (JSON_LINES.replace('"visitor_id"', '"who"'), "line 2: neither session_id nor visitor_id"),
        ("a,b,c\n1,2,3\n", "no column is called like session_id or item_id or event_time"),
        ("a,b,c\n1,2,3\n", "the file has the columns a, b, c"),
        (OTTO.replace('"aid":11', '"aid":"x"'), "line 2: is no session of OTTO"),
        (OTTO.replace(str(T + 1000), "17"), "line 2, column ts: the time is not between"),
        (gzip.compress(CSV.encode() * 50)[:60], "the compressed data ends early"),
        (b"\x1f\x8b" + b"garbage" * 10, "damaged gzip"),
        (b"PAR1" + b"garbage" * 10, "damaged or cut-off Parquet"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_with_file_line_and_column(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    path = write(tmp_path / "some-file", text)
    message = refusal(path)
    assert said in message
    assert str(path) in message


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "nothing")
    assert "is a directory" in refusal(tmp_path)


def test_a_wrong_mapping_says_which_columns_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", CSV)
    message = refusal(path, columns={"item_id": "sku"})
    assert "no column 'sku' to take item_id from" in message
    assert "session_id, item_id, timestamp_ms, event_type, note" in message
    assert "cannot be mapped to 'item'" in refusal(path, columns={"item": "item_id"})
    path = write(tmp_path / "c.jsonl", JSON_LINES)
    assert "whose columns are fixed" in refusal(path, columns={"item_id": "sku"})


def test_a_wrong_format_is_corrected(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", CSV)
    assert "unknown format 'xml': write one of jsonl, csv" in refusal(path, format="xml")
    assert "is no parquet: leave the format out, or name csv" in refusal(path, format="parquet")
    assert "line 1" in refusal(path, format="jsonl")


def test_bad_rows_of_parquet_are_named_by_row(tmp_path: Path) -> None:
    table = pa.table({"session": ["a", None], "item": [1, 2], "timestamp": [T, T]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert "row 2, column session: nothing is written here" in refusal(tmp_path / "p.parquet")
