"""A bundle that asks for more memory than there is must be refused before it is read or run.

A sparse file, or a graph of a kilobyte, can ask for terabytes; the kernel would then end the process,
live model and all, long before a probe could refuse it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from onnx import shape_inference

FILE_BYTES_MAX: Final = 2**31
"""No graph can be larger (protobuf's own limit)."""
ELEMENTS_MAX: Final = 2**27
"""Elements of all that a graph computes for one row of a batch: half a gigabyte in float32.  A million
items scored in two stages need about five million."""

_MAKERS: Final = frozenset({"ConstantOfShape", "Expand", "Pad", "Range"})
"""Operators whose result can be larger than everything they are given."""
_SMALL_BYTES: Final = 4096
"""Constants up to this size are shown to the inference: shapes are among them, weights are not."""


def read_bounded(path: Path, limit: int = FILE_BYTES_MAX) -> bytes:
    """The whole file.  Raises `OSError` for a link, for a larger file, and for what is no file: a pipe would
    keep us waiting, and opening a device may do anything.

    Looked at and read through one descriptor, so that nothing can be put in its place in between.
    """
    if stat.S_ISLNK(path.lstat().st_mode):
        raise OSError(errno.ELOOP, "a link")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - pathlib opens no descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"{found.st_size} bytes, more than {limit}")
        return file.read(limit)


def size_problems(file: str, model: onnx.ModelProto) -> Iterator[str]:
    """What is wrong with the sizes; nothing is allocated to find out.

    Each size must follow from the constants and from the named axes of the inputs (`batch`, `k`); one
    that depends on what the inputs hold is refused where an operator makes tensors out of nothing.
    """
    try:
        inferred = shape_inference.infer_shapes(_outline(model), data_prop=True, strict_mode=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        yield f"the shapes of {file} do not fit together ({str(error).splitlines()[0]})"
        return
    graph = inferred.graph
    shapes = {
        value.name: value.type.tensor_type.shape for value in (*graph.value_info, *graph.output)
    }
    named = {d.dim_param for value in graph.input for d in value.type.tensor_type.shape.dim}
    total = 0
    for node in graph.node:
        for output in node.output:
            shape = shapes.get(output)
            if node.op_type in _MAKERS and not _is_bounded(shape, named):
                yield f"{node.op_type} in {file} makes a tensor whose size depends on what is asked"
                return
            total += _elements(shape)
    if total > ELEMENTS_MAX:
        yield f"{file} computes {total:.3g} numbers for each click, more than {ELEMENTS_MAX:.3g}"


def _outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large constants declared as inputs: inference copies what it is given."""
    outline = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        graph=onnx.GraphProto(
            name="outline",
            node=model.graph.node,
            input=model.graph.input,
            output=model.graph.output,
        ),
    )
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL_BYTES:
            outline.graph.initializer.append(tensor)
        else:
            declared = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, tensor.dims
            )
            outline.graph.input.append(declared)
    return outline


def _is_bounded(shape: onnx.TensorShapeProto | None, named: set[str]) -> bool:
    if shape is None:
        return False
    return all(d.HasField("dim_value") or (d.dim_param and d.dim_param in named) for d in shape.dim)


def _elements(shape: onnx.TensorShapeProto | None) -> int:
    """Of one row: an axis without a fixed size counts once."""
    elements = 1
    for dim in shape.dim if shape is not None else ():
        elements *= max(dim.dim_value, 1)
    return elements
