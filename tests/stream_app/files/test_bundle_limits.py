"""Bundles that ask for more memory than there is are refused before anything is allocated."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from stream_app.core.errors import BundleError
from stream_app.files.bundle import open_bundle
from stream_app.files.bundle_limits import FILE_BYTES_MAX
from tests.bundles import make_bundle
from tests.stream_app.files.test_bundle import change_graph

HUGE = 2**40


def constant(model: onnx.ModelProto, name: str, array: np.ndarray) -> str:  # type: ignore[type-arg]
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def filled(model: onnx.ModelProto) -> None:
    """A constant of a terabyte, written in forty bytes."""
    shape = constant(model, "huge", np.array([HUGE], dtype=np.int64))
    model.graph.node.append(helper.make_node("ConstantOfShape", [shape], ["bomb"]))


def outer_product(model: onnx.ModelProto) -> None:
    """A column times a row: two constants of a megabyte make 250 GB."""
    column = constant(model, "column", np.ones((2**18, 1), dtype=np.float32))
    row = constant(model, "row", np.ones((1, 2**18), dtype=np.float32))
    model.graph.node.append(helper.make_node("MatMul", [column, row], ["bomb"]))


def as_large_as_the_input_says(model: onnx.ModelProto) -> None:
    """`k` items are asked for, and k**4 numbers are made."""
    nodes = [
        helper.make_node("Mul", ["k", "k"], ["squared"]),
        helper.make_node("Mul", ["squared", "squared"], ["fourth"]),
        helper.make_node("ConstantOfShape", ["fourth"], ["bomb"]),
    ]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize("change", [filled, outer_product])
@pytest.mark.parametrize("name", ["step.onnx", "score.onnx"])
def test_a_graph_that_computes_more_than_fits_is_refused_unrun(
    tmp_path: Path, name: str, change: Callable[[onnx.ModelProto], None]
) -> None:
    directory = make_bundle(tmp_path)
    change_graph(directory, change, name)
    with pytest.raises(BundleError, match=f"{name} computes .* numbers for each click"):
        open_bundle(directory)


def test_a_tensor_whose_size_follows_from_the_input_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    change_graph(directory, as_large_as_the_input_says, "score.onnx")
    with pytest.raises(BundleError, match=r"ConstantOfShape in score\.onnx"):
        open_bundle(directory)


def test_a_constant_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)

    def declare(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[0] = HUGE

    change_graph(directory, declare)
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(directory)


def test_shapes_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)

    def misfit(model: onnx.ModelProto) -> None:
        one = constant(model, "one", np.ones((2, 3), dtype=np.float32))
        other = constant(model, "other", np.ones((4, 5), dtype=np.float32))
        model.graph.node.append(helper.make_node("MatMul", [one, other], ["nothing"]))

    change_graph(directory, misfit)
    with pytest.raises(BundleError, match="do not fit together"):
        open_bundle(directory)


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_sparse_file_of_terabytes_is_refused_unread(tmp_path: Path, name: str) -> None:
    directory = make_bundle(tmp_path)
    with (directory / name).open("r+b") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(BundleError, match=r"more than (2147483648|4194304)"):
        open_bundle(directory)


@pytest.mark.parametrize("name", ["manifest.json", "step.onnx"])
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path, name: str) -> None:
    directory = make_bundle(tmp_path)
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(directory)
