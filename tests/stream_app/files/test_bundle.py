"""A bundle comes back as it was written, or is refused with a reason; never anything in between."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import BundleError, ConfigurationError, VocabularyMismatchError
from stream_app.core.manifest import EXACT, ModelManifest
from stream_app.core.session_neighbours import PastSessions
from stream_app.files import bundle as bundles
from stream_app.files.bundle import (
    open_bundle,
    read_weights,
    remove_leftovers,
    write_bundle,
    write_bundle_into,
)
from tests.bundles import bundle_content, make_bundle

FILES = ["manifest.json", "step.onnx", "score.onnx", "vocabulary.json"]
TENSOR_FILES = ["items.safetensors", "weights.safetensors"]


def replace_file(directory: Path, name: str, data: bytes) -> None:
    """Change a file *and* its hash in the manifest, so that only the check behind it can object."""
    (directory / name).write_bytes(data)
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(manifest))


def change_graph(
    directory: Path, change: Callable[[onnx.ModelProto], object], name: str = "step.onnx"
) -> None:
    model = onnx.load_model_from_string((directory / name).read_bytes())
    change(model)
    replace_file(directory, name, model.SerializeToString())


def change_manifest(directory: Path, **fields: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(directory: Path, name: str, **tensors: np.ndarray[Any, Any] | None) -> None:
    merged = {**safetensors.numpy.load((directory / name).read_bytes()), **tensors}
    kept = {key: tensor for key, tensor in merged.items() if tensor is not None}
    replace_file(directory, name, safetensors.numpy.save(kept))


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    content = bundle_content(30, seed=7, ids=[f"ü-{i} \u2028/'" for i in range(30)])
    manifest = write_bundle(tmp_path / "b", content)
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest == manifest
    assert bundle.vocabulary.ids == content.vocabulary.ids
    assert (bundle.step, bundle.score) == (content.step, content.score)
    assert np.array_equal(bundle.item2vec, content.item2vec)
    assert np.array_equal(bundle.popularity, content.popularity)
    weights = read_weights(tmp_path / "b")
    assert sorted(weights) == sorted(content.weights)
    assert all(np.array_equal(weights[name], content.weights[name]) for name in weights)


def test_which_items_are_new_comes_back(tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "plain", bundle_content(30))
    assert plain.second_stage is None
    assert not open_bundle(tmp_path / "plain").placed.any()
    write_bundle(tmp_path / "new", bundle_content(30, ranked=True))
    assert np.flatnonzero(open_bundle(tmp_path / "new").placed).tolist() == [3, 10, 17, 24]


def test_past_sessions_come_back(tmp_path: Path) -> None:
    content = bundle_content(30, ranked=True)
    assert content.past is not None
    write_bundle(tmp_path / "b", content)
    past = open_bundle(tmp_path / "b").past
    assert past is not None
    assert np.array_equal(past.items, content.past.items)
    assert np.array_equal(past.starts, content.past.starts)


def test_a_second_stage_that_misses_its_past_sessions_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", replace(bundle_content(30, ranked=True), past=None))
    with pytest.raises(BundleError, match=r"does not list sessions\.safetensors"):
        open_bundle(tmp_path / "b")


def test_past_sessions_of_other_items_are_refused(tmp_path: Path) -> None:
    foreign = PastSessions(np.array([0, 30]), np.array([0, 2]))
    write_bundle(tmp_path / "b", replace(bundle_content(30, ranked=True), past=foreign))
    with pytest.raises(
        BundleError, match=r"none of the 30 in the vocabulary.*publish the model again"
    ):
        open_bundle(tmp_path / "b")


def test_the_manifest_names_every_other_file(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    listed = ModelManifest.from_json((directory / "manifest.json").read_bytes()).files
    assert {p.name for p in directory.iterdir()} == {*listed, "manifest.json"}


@pytest.mark.parametrize("name", [*FILES, *TENSOR_FILES])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    directory = make_bundle(tmp_path)
    (directory / name).unlink()
    with pytest.raises(BundleError, match=name):
        open_bundle(directory)


@pytest.mark.parametrize("name", [*FILES, *TENSOR_FILES])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    directory = make_bundle(tmp_path)
    data = (directory / name).read_bytes()
    (directory / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError):
        open_bundle(directory)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from([*FILES[1:], *TENSOR_FILES]), place=st.floats(0, 1), bit=st.integers(0, 7)
)
def test_a_flipped_bit_is_refused(tmp_path: Path, name: str, place: float, bit: int) -> None:
    directory = tmp_path / "flipped"
    if not directory.exists():
        write_bundle(directory, bundle_content())
    original = (directory / name).read_bytes()
    damaged = bytearray(original)
    damaged[min(int(place * len(damaged)), len(damaged) - 1)] ^= 1 << bit
    (directory / name).write_bytes(damaged)
    try:
        with pytest.raises(BundleError):
            open_bundle(directory)
    finally:
        (directory / name).write_bytes(original)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from([*FILES[1:], *TENSOR_FILES]), data=st.data())
def test_damage_with_a_matching_hash_is_refused_or_harmless(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Whatever the parsers make of damaged bytes, only `BundleError` comes out."""
    directory = tmp_path / "damaged"
    if not directory.exists():
        write_bundle(directory, bundle_content(10, 4))
    original = (directory / name).read_bytes()
    manifest = (directory / "manifest.json").read_bytes()
    damaged = bytearray(original)
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[place] = data.draw(st.integers(0, 255))
    replace_file(directory, name, bytes(damaged))
    try:
        OnnxScorer.load(directory)
    except BundleError:
        pass
    finally:
        (directory / name).write_bytes(original)
        (directory / "manifest.json").write_bytes(manifest)


def test_a_directory_without_a_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nextclick train"):
        open_bundle(tmp_path / "nothing-here")


def test_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["score.onnx"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"score.onnx .* SHA-256"):
        open_bundle(directory)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path, 3)
    replace_file(directory, "vocabulary.json", b'["a","b","c"]')
    with pytest.raises(VocabularyMismatchError):
        open_bundle(directory)


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path, 3)
    data = b'["a","b"]'
    replace_file(directory, "vocabulary.json", data)
    change_manifest(directory, vocabulary_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(BundleError, match="2 items in the vocabulary, 3 in the manifest"):
        open_bundle(directory)


def test_more_items_than_the_manifest_says_are_refused_by_the_probe(tmp_path: Path) -> None:
    """All files agree with each other but the graph knows items that have no id."""
    large, small = bundle_content(40), bundle_content(20)
    write_bundle(tmp_path / "b", replace(small, score=large.score, step=large.step))
    with pytest.raises(BundleError, match="outside the vocabulary"):
        OnnxScorer.load(tmp_path / "b")


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path, units=16)
    change_manifest(directory, state=[{"name": "hidden_0", "shape": [17], "dtype": "float16"}])
    with pytest.raises(BundleError, match=r"hidden_0 .*\[None, 16\].* declares \[None, 17\]"):
        open_bundle(directory)


def test_a_state_of_another_name_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    change_manifest(directory, state=[{"name": "memory", "shape": [16], "dtype": "float16"}])
    with pytest.raises(BundleError, match=r"inputs of step.onnx are item, hidden_0"):
        open_bundle(directory)


@pytest.mark.parametrize("version", [7, 99])
def test_an_unknown_operator_set_is_refused(tmp_path: Path, version: int) -> None:
    directory = make_bundle(tmp_path)
    change_graph(directory, lambda model: setattr(model.opset_import[0], "version", version))
    with pytest.raises(BundleError, match=f"operator set {version}"):
        open_bundle(directory)


def test_an_unknown_bundle_format_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    change_manifest(directory, format_version=2)
    with pytest.raises(BundleError, match="bundle format 2"):
        open_bundle(directory)


def set_first_weight(value: float) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
        array = numpy_helper.to_array(tensor).copy()
        array.flat[5] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["step.onnx", "score.onnx"])
def test_a_weight_that_is_no_number_is_refused(tmp_path: Path, name: str, value: float) -> None:
    directory = make_bundle(tmp_path)
    change_graph(directory, set_first_weight(value), name)
    with pytest.raises(BundleError, match=f"of {name} holds NaN"):
        open_bundle(directory)


def test_a_nan_among_the_weights_for_training_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    bias = np.zeros(50, dtype=np.float32)
    bias[3] = np.nan
    change_tensors(directory, "weights.safetensors", output_bias=bias)
    with pytest.raises(BundleError, match=r"output_bias of weights.safetensors holds NaN"):
        open_bundle(directory)


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"item2vec": None}, "item2vec of items.safetensors is missing"),
        ({"item2vec": np.ones((49, 8), np.float32)}, r"item2vec .* float32 \[49, 8\]"),
        ({"item2vec": np.ones((50, 8), np.float64)}, "float64"),
        ({"popularity": np.ones((50, 1), np.float32)}, "popularity"),
        ({"popularity": np.full(50, np.nan, np.float32)}, "popularity .* NaN"),
        ({"placed": np.ones(49, np.uint8)}, r"placed .* uint8 \[49\]"),
        ({"placed": np.ones(50, np.float32)}, "placed .* float32"),
    ],
)
def test_item_tables_of_a_wrong_shape_are_refused(
    tmp_path: Path, tensors: dict[str, Any], found: str
) -> None:
    directory = make_bundle(tmp_path)
    change_tensors(directory, "items.safetensors", **tensors)
    with pytest.raises(BundleError, match=found):
        open_bundle(directory)


def make_external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def test_weights_in_another_file_are_refused_unread(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    change_graph(directory, make_external)
    with pytest.raises(BundleError, match="external data"):
        open_bundle(directory)


def test_weights_in_another_file_inside_a_constant_are_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = numpy_helper.from_array(np.ones(2, np.float32), "hidden-away")
        tensor.external_data.add(key="location", value="elsewhere")
        model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))

    directory = make_bundle(tmp_path)
    change_graph(directory, change)
    with pytest.raises(BundleError, match="hidden-away in another file"):
        open_bundle(directory)


@pytest.mark.parametrize(
    ("kind", "domain"),
    [("Loop", ""), ("RandomNormal", ""), ("Gemm", "com.example"), ("FusedGemm", "com.microsoft")],
)
def test_operators_off_the_list_are_refused(tmp_path: Path, kind: str, domain: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(kind, ["item"], ["unused"], domain=domain))

    directory = make_bundle(tmp_path)
    change_graph(directory, change)
    with pytest.raises(BundleError, match=f"{domain}::{kind}, which is not allowed"):
        open_bundle(directory)


def test_operators_of_ones_own_are_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    change_graph(directory, lambda m: m.opset_import.append(helper.make_opsetid("mine", 1)))
    with pytest.raises(BundleError, match="operators of its own"):
        open_bundle(directory)


def test_a_branch_hidden_in_an_allowed_operator_is_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        inner = helper.make_graph([], "inner", [], [])
        model.graph.node[0].attribute.append(helper.make_attribute("body", inner))

    directory = make_bundle(tmp_path)
    change_graph(directory, change)
    with pytest.raises(BundleError, match="graph or a sparse tensor inside"):
        open_bundle(directory)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", ".", "sub/file"])
def test_files_outside_the_bundle_are_refused_unread(tmp_path: Path, name: str) -> None:
    directory = make_bundle(tmp_path)
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no file of the bundle's own directory"):
        open_bundle(directory)


def test_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    (directory / "step.onnx").rename(tmp_path / "step.onnx")
    (directory / "step.onnx").symlink_to(tmp_path / "step.onnx")
    with pytest.raises(BundleError, match="no file of the bundle's own directory"):
        open_bundle(directory)


def test_a_target_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    with pytest.raises(ConfigurationError, match="exists already"):
        write_bundle(directory, bundle_content(seed=9))
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match=r"cannot write to .*registry"):
        write_bundle(tmp_path / "file" / "version", bundle_content())


def test_a_writer_killed_on_the_way_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each of its writes in turn: the target is not there, the leftovers can be cleared."""

    class Killed(BaseException):
        pass

    real = bundles.os.fsync
    for survived in range(8):
        calls = iter(range(100))

        def dies(descriptor: int, calls: Any = calls, survived: int = survived) -> None:
            if next(calls) == survived:
                raise Killed
            real(descriptor)

        monkeypatch.setattr(bundles.os, "fsync", dies)
        target = tmp_path / f"version-{survived}"
        with contextlib.suppress(Killed):
            write_bundle(target, bundle_content())
        monkeypatch.setattr(bundles.os, "fsync", real)
        if target.exists():
            assert survived == 7, "the rename comes after everything else is on the disk"
            open_bundle(target)
    assert len(remove_leftovers(tmp_path)) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["version-7"]


def test_a_bundle_shares_a_directory_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.bin").write_bytes(b"keep me")
    write_bundle_into(tmp_path, bundle_content(seed=1))
    write_bundle_into(tmp_path, bundle_content(seed=2))
    assert open_bundle(tmp_path).manifest.model_version == bundle_content(seed=2).model_version
    assert (tmp_path / "checkpoint.bin").read_bytes() == b"keep me"


def test_a_bundle_from_before_scoring_was_recorded_is_an_exact_one(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    manifest = json.loads((directory / "manifest.json").read_bytes())
    del manifest["scoring"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    assert open_bundle(directory).manifest.scoring == EXACT
