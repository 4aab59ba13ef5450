"""Base and delta make the whole bundle, byte for byte; a delta of anything else is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from stream_app.core.errors import BundleError
from stream_app.core.manifest import MANIFEST_FILE
from stream_app.files.bundle_delta import Delta, Rows, Tensors, apply_delta, make_delta
from tests.bundles import make_bundle, random_weights, refreshed

Tables = dict[str, np.ndarray[Any, Any]]


def files_of(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name != MANIFEST_FILE}


def applied(base: Mapping[str, bytes], delta: bytes) -> dict[str, bytes]:
    return {**base, **dict(apply_delta(lambda name: base.get(name, b""), delta))}


def graph_of(tables: Tables) -> bytes:
    constants = [numpy_helper.from_array(table, name) for name, table in tables.items()]
    graph = onnx.helper.make_graph([], "g", [], [], constants)
    return bytes(onnx.helper.make_model(graph).SerializeToString())


@st.composite
def two_tables(draw: st.DrawFn) -> tuple[Tables, Tables]:
    """Before and after: slices changed and added or cut off along some axis, tensors new and gone."""
    before: Tables = {}
    after: Tables = {}
    for name in draw(st.lists(st.sampled_from("abcde"), unique=True)):
        dtype = draw(st.sampled_from(["<f4", "<f2", "<i8", "i1"]))
        shape = draw(arrays.array_shapes(max_dims=3, max_side=90))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        old = rng.integers(-9, 9, size=shape).astype(dtype)
        axis = draw(st.integers(0, len(shape) - 1))
        n = draw(st.integers(max(shape[axis] - 3, 0), shape[axis] + 20))
        new = np.zeros((n, *np.moveaxis(old, axis, 0).shape[1:]), dtype=dtype)
        new[: shape[axis]] = np.moveaxis(old, axis, 0)[:n]
        if n:
            at = draw(st.lists(st.integers(0, n - 1), max_size=5))
            new[at] = draw(st.sampled_from([1, 0, -7]))
        where = draw(st.sampled_from(["both", "both", "both", "before", "after"]))
        if where != "after":
            before[name] = old
        if where != "before":
            after[name] = np.ascontiguousarray(np.moveaxis(new, 0, axis))
    return before, after


@given(two_tables())
def test_any_tensors_come_back_bit_for_bit(tables: tuple[Tables, Tables]) -> None:
    before, after = tables
    base = {"t.safetensors": safetensors.numpy.save(before), "g.onnx": graph_of(before)}
    whole = {"t.safetensors": safetensors.numpy.save(after), "g.onnx": graph_of(after)}
    assert applied(base, make_delta(base, whole)) == whole


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_other_file_comes_back(old: bytes, new: bytes) -> None:
    base, whole = {"vocabulary.json": old}, {"vocabulary.json": new, "another": old}
    assert applied(base, make_delta(base, whole)) == whole


@pytest.mark.parametrize(
    ("n_items", "share_max"), [(3000, 0.03), (6000, 0.1)], ids=["exact", "int8 besides"]
)
def test_a_refreshed_model_is_told_by_its_changed_rows(
    tmp_path: Path, n_items: int, share_max: float
) -> None:
    """One row changed and three items added, whatever the matrix of the scores is transposed and padded to.
    Columns in 8 bits are laid out by the number of items, so they are told anew."""
    weights = random_weights(n_items, 32)
    ids = [f"item-{i}" for i in range(n_items + 3)]
    base = make_bundle(tmp_path, ids=ids[:n_items], weights=weights, version="base")
    new = make_bundle(
        tmp_path, ids=ids, weights=refreshed(weights, changed=[5], added=3), version="new"
    )
    before, after = files_of(base), files_of(new)
    for part in (before, after):
        del part["items.safetensors"]  # made up anew for each
    delta = make_delta(before, after)
    assert applied(before, delta) == after
    assert len(delta) < share_max * sum(map(len, after.values()))


def test_what_is_in_three_tensors_is_kept_once() -> None:
    table = np.random.default_rng(0).normal(size=(500, 100)).astype(np.float32)
    other = table.copy()
    other[7:17] += 1
    base = {"step.onnx": graph_of({"in": table}), "score.onnx": graph_of({"out": table.T.copy()})}
    whole = {"step.onnx": graph_of({"in": other}), "score.onnx": graph_of({"out": other.T.copy()})}
    delta = make_delta(base, whole)
    assert applied(base, delta) == whole
    assert len(delta) < 10 * 100 * 4 + 1000


def test_a_file_that_is_the_bases_takes_no_room() -> None:
    base = {"ranker.onnx": bytes(10_000)}
    assert len(make_delta(base, base)) < 50


@pytest.mark.parametrize("version", [0, 2])
def test_a_delta_of_another_format_is_refused(version: int) -> None:
    data = msgspec.msgpack.encode(Delta(format_version=version, files={}, blobs=[]))
    with pytest.raises(BundleError, match="upgrade nextclick"):
        list(apply_delta(lambda _: b"", data))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda table: table[:, :50], id="other width"),
        pytest.param(lambda table: table.astype(np.float16), id="other type"),
        pytest.param(lambda table: table[None], id="other rank"),
    ],
)
def test_a_delta_on_another_base_is_refused(wrong: Any) -> None:
    table = np.ones((500, 100), dtype=np.float32)
    changed = table.copy()
    changed[3] = 2
    delta = make_delta({"s.onnx": graph_of({"t": table})}, {"s.onnx": graph_of({"t": changed})})
    with pytest.raises(BundleError, match="does not fit its base"):
        list(apply_delta(lambda _: graph_of({"t": wrong(table)}), delta))


@pytest.mark.parametrize(
    "rows", [Rows(2, 1, 2), Rows(-1, 1, 2), Rows(0, 9, 2), Rows(0, 3, 2)], ids=str
)
def test_rows_that_are_nowhere_are_refused(rows: Rows) -> None:
    table = np.ones((500, 100), dtype=np.float32)
    skeleton = onnx.load_model_from_string(graph_of({"t": table}))
    skeleton.graph.initializer[0].raw_data = b""
    far = np.array([700], dtype="<u4").tobytes()
    blobs = [
        skeleton.SerializeToString(),
        np.array([3], dtype="<u4").tobytes(),
        table[:1].tobytes(),
        far,
    ]
    delta = Delta(files={"s.onnx": Tensors("onnx", 0, {"t": rows})}, blobs=blobs)
    with pytest.raises(BundleError, match="does not fit its base"):
        list(apply_delta(lambda _: graph_of({"t": table}), msgspec.msgpack.encode(delta)))
