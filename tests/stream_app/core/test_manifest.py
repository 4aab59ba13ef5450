"""A bundle's manifest: what it must say, and what makes it unfit to serve."""

import json
from typing import Any

import msgspec
import pytest

from stream_app.core.errors import BundleError
from stream_app.core.manifest import CANDIDATES_MAX, ModelManifest, SecondStage, StateTensor

MANIFEST = ModelManifest(
    model_version="20261124T111132Z-3f2a",
    created_at="2026-11-24T11:11:32Z",
    architecture="gru4rec",
    hyperparameters={"layer_units": 100},
    state=(
        StateTensor("hidden_0", (100,), "float16"),
        StateTensor("mean", (4, 8), "float32"),
    ),
    n_items=2,
    vocabulary_sha256="ab" * 32,
    files={"step.onnx": "cd" * 32},
    metrics={"recall_20": 0.25},
)


def _changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(MANIFEST.to_json()), **fields}).encode()


def test_a_manifest_comes_back_from_its_file() -> None:
    assert ModelManifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_the_state_is_as_large_as_its_tensors_together() -> None:
    assert [tensor.size_bytes for tensor in MANIFEST.state] == [200, 128]
    assert MANIFEST.state_size_bytes == 328


def test_a_scalar_tensor_is_one_number() -> None:
    assert StateTensor("weight", (), "float32").size_bytes == 4


def test_fields_of_a_newer_nextclick_are_passed_over() -> None:
    assert ModelManifest.from_json(_changed(novelty={"a": 1})) == MANIFEST


def test_a_manifest_is_read_by_people_too() -> None:
    assert b'\n  "model_version"' in MANIFEST.to_json()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "unreadable"),
        (b"{", "unreadable"),
        (b"[]", "unreadable"),
        (b"\xff\xfe", "unreadable"),
        (b"{}", "missing required field"),
        (MANIFEST.to_json()[:-5], "unreadable"),
        (_changed(n_items="2"), "unreadable"),
        (_changed(state=[{"name": "h", "shape": [1], "dtype": "float64"}]), "unreadable"),
        (_changed(state=[{"name": "h", "shape": [1.5], "dtype": "float16"}]), "unreadable"),
        (_changed(state=[]), "no state tensor"),
        (_changed(n_items=0), "no item"),
        (_changed(state=[{"name": "h", "shape": [0], "dtype": "float16"}]), "state of 0 bytes"),
        (_changed(state=[{"name": "h", "shape": [-4], "dtype": "float16"}]), "state of -8 bytes"),
        (_changed(state=[{"name": "h", "shape": [32768], "dtype": "float16"}]), "65536 bytes"),
        (_changed(model_version=""), "model version"),
        (_changed(model_version="x" * 101), "model version"),
    ],
)
def test_an_unfit_manifest_is_refused_and_says_why(data: bytes, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        ModelManifest.from_json(data)


@pytest.mark.parametrize("format_version", [0, 2, 99])
def test_another_format_is_refused_with_what_to_do(format_version: int) -> None:
    with pytest.raises(BundleError, match="upgrade nextclick, or export the model again"):
        ModelManifest.from_json(_changed(format_version=format_version))


def test_a_manifest_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        MANIFEST.n_items = 3  # type: ignore[misc]
    assert msgspec.structs.replace(MANIFEST, n_items=3).n_items == 3


@pytest.mark.parametrize("source", ["model", "associated", "popular", "neighbour", "session"])
@pytest.mark.parametrize("items", [-1, CANDIDATES_MAX + 1])
def test_a_second_stage_may_not_ask_for_more_than_a_click_has_time_for(
    source: str, items: int
) -> None:
    """Nor for less than nothing, which would end the worker at the first click."""
    stage = {"features": ["a"], f"{source}_items": items}
    with pytest.raises(BundleError, match=f"0 to {CANDIDATES_MAX} items"):
        ModelManifest.from_json(_changed(second_stage=stage))


@pytest.mark.parametrize(
    ("field", "value"),
    [("neighbours", 0), ("sessions", 10**9), ("decay", 0.0), ("idf", 1e9), ("self_weight", -1.0)],
)
def test_impossible_neighbours_are_refused(field: str, value: float) -> None:
    stage = {"features": ["a"], "session_knn": {field: value}}
    with pytest.raises(BundleError, match=f"session-kNN: {field} is"):
        ModelManifest.from_json(_changed(second_stage=stage))


def test_a_second_stage_may_ask_for_all_that_a_click_has_time_for() -> None:
    default = SecondStage(features=("a",))
    rest = CANDIDATES_MAX - sum(default.counts)
    stage = {"features": ["a"], "neighbour_items": rest}
    found = ModelManifest.from_json(_changed(second_stage=stage)).second_stage
    assert found is not None
    assert sum(found.counts) == CANDIDATES_MAX
    stage["neighbour_items"] = rest + 1
    with pytest.raises(BundleError):
        ModelManifest.from_json(_changed(second_stage=stage))
