"""Bundles that must not be served: each way to be wrong, and the words of the check that finds it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TERABYTE: Final = 2**40


class BadBundle(NamedTuple):
    """A way to be wrong."""

    damage: Callable[[Path], None]
    """Changes a published version in place."""
    said: str
    """Part of what the log must say of it."""


def edit_manifest(directory: Path, **fields: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def put(directory: Path, name: str, data: bytes) -> None:
    """Replace a file and its hash in the manifest, so that only the check behind it can object."""
    (directory / name).write_bytes(data)
    files = json.loads((directory / "manifest.json").read_text())["files"]
    edit_manifest(directory, files={**files, name: hashlib.sha256(data).hexdigest()})


def edit_graph(directory: Path, change: Callable[[onnx.ModelProto], object], name: str) -> None:
    model = onnx.load_model_from_string((directory / name).read_bytes())
    change(model)
    put(directory, name, model.SerializeToString())


def _cut_short(directory: Path) -> None:
    path = directory / "score.onnx"
    path.write_bytes(path.read_bytes()[:-20])


def _flip_a_bit(directory: Path) -> None:
    path = directory / "step.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _wrong_hash(directory: Path) -> None:
    files = json.loads((directory / "manifest.json").read_text())["files"]
    edit_manifest(directory, files={**files, "items.safetensors": "0" * 64})


def _other_vocabulary(directory: Path) -> None:
    ids = json.loads((directory / "vocabulary.json").read_bytes())
    put(directory, "vocabulary.json", json.dumps(ids[::-1]).encode())


def _other_shape(directory: Path) -> None:
    (state,) = json.loads((directory / "manifest.json").read_text())["state"]
    edit_manifest(directory, state=[{**state, "shape": [state["shape"][0] + 1]}])


def _old_operators(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 7

    edit_graph(directory, change, "step.onnx")


def _not_a_number(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        weights = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
        array = numpy_helper.to_array(weights).copy()
        array.flat[0] = np.nan
        weights.CopyFrom(numpy_helper.from_array(array, weights.name))

    edit_graph(directory, change, "step.onnx")


def _weights_elsewhere(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/hostname")

    edit_graph(directory, change, "step.onnx")


def _operator_of_its_own(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        model.graph.node.append(helper.make_node("Run", ["item"], ["ran"], domain="com.example"))

    edit_graph(directory, change, "step.onnx")


def _by_chance(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("RandomNormal", [], ["r"], shape=[1]))

    edit_graph(directory, change, "score.onnx")


def _fills_a_terabyte(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        size = numpy_helper.from_array(np.array([TERABYTE], dtype=np.int64), "size")
        model.graph.initializer.append(size)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["bomb"]))

    edit_graph(directory, change, "score.onnx")


def _claims_a_terabyte(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[0] = TERABYTE

    edit_graph(directory, change, "score.onnx")


def _sparse_terabyte(directory: Path) -> None:
    os.truncate(directory / "weights.safetensors", TERABYTE)


def _a_pipe(directory: Path) -> None:
    (directory / "vocabulary.json").unlink()
    os.mkfifo(directory / "vocabulary.json")


def _no_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def _another_name(directory: Path) -> None:
    edit_manifest(directory, model_version="20000101T000000Z-0000")


BAD_BUNDLES: Final = {
    "truncated": BadBundle(_cut_short, "does not have the SHA-256"),
    "one bit flipped": BadBundle(_flip_a_bit, "does not have the SHA-256"),
    "wrong hash": BadBundle(_wrong_hash, "does not have the SHA-256"),
    "vocabulary": BadBundle(_other_vocabulary, "the vocabulary is"),
    "shape": BadBundle(_other_shape, "the manifest declares"),
    "operator set": BadBundle(_old_operators, "has operator set 7"),
    "NaN": BadBundle(_not_a_number, "holds NaN"),
    "external data": BadBundle(_weights_elsewhere, "external data"),
    "custom operator": BadBundle(_operator_of_its_own, "operators of its own"),
    "operator of chance": BadBundle(_by_chance, "which is not allowed"),
    "fills a terabyte": BadBundle(_fills_a_terabyte, "numbers for each click"),
    "claims a terabyte": BadBundle(_claims_a_terabyte, "is damaged"),
    "sparse terabyte": BadBundle(_sparse_terabyte, "more than"),
    "a pipe": BadBundle(_a_pipe, "not a regular file"),
    "no manifest": BadBundle(_no_manifest, "has no version"),
    "another model's name": BadBundle(_another_name, "holds the model"),
}
