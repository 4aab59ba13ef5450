"""A bundle told by what it differs in from another one: a refreshed model is some changed rows of the last full one.

A delta knows nothing of networks.  Tensors of graphs and of safetensors files are compared along the axis
that makes the fewest changed slices; equal slices (an item's vector is input, output and weight) are kept
once; of any other file the middle part is kept that is not the same.  What is made of base and delta is
the whole bundle **byte for byte**, so the manifest's hashes say whether it is right.
"""

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from stream_app.core.errors import BundleError
from stream_app.core.records import UNREADABLE
from stream_app.files.bundle_limits import FILE_BYTES_MAX

FORMAT_VERSION: Final = 1
_SMALL_BYTES: Final = 256
"""Tensors of a graph up to this size stay where they are: shapes and axes, mostly."""
_KINDS: Final = {1: "f4", 2: "u1", 3: "i1", 6: "i4", 7: "i8", 10: "f2"}
"""ONNX element types that are compared; tensors of others stay where they are."""
_SAFETENSORS_KINDS: Final = {
    "F32": "f4", "F16": "f2", "F64": "f8", "I64": "i8", "I32": "i4", "I8": "i1", "U8": "u1"
}  # fmt: skip

Array = NDArray[Any]
Kind = Literal["onnx", "safetensors"]


class Whole(msgspec.Struct, frozen=True, tag="whole", array_like=True):
    """All of a tensor."""

    blob: int


class Rows(msgspec.Struct, frozen=True, tag="rows", array_like=True):
    """The base's tensor, cut or filled up with zeros along an axis, with some slices changed."""

    axis: int
    at: int
    """Blob of the slices' numbers, uint32 ascending."""
    values: int
    """Blob of the slices, one after the other, the axis first."""


class Tensors(msgspec.Struct, frozen=True, tag="tensors", array_like=True):
    """A file of tensors: everything but their numbers, and what each differs in."""

    kind: Kind
    skeleton: int
    changes: dict[str, Whole | Rows]
    """A tensor that is not named is the base's."""


class Splice(msgspec.Struct, frozen=True, tag="splice", array_like=True):
    """Any file: so many first bytes of the base's, a blob, so many of its last bytes."""

    first: int
    blob: int
    last: int


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """MessagePack.  Files that are not named are the base's."""

    format_version: int = FORMAT_VERSION
    files: dict[str, Tensors | Splice]
    blobs: list[bytes]
    """Contents, each once."""


def make_delta(base: Mapping[str, bytes], whole: Mapping[str, bytes]) -> bytes:
    """What turns the files of `base` into those of `whole`.  Both by name, as they lie on disk."""
    blobs = _Blobs()
    files = {}
    for name, data in whole.items():
        if base.get(name) != data:
            files[name] = _file_change(name, base.get(name, b""), data, blobs)
    return msgspec.msgpack.encode(Delta(files=files, blobs=blobs.all))


def apply_delta(
    base: Callable[[str], bytes], delta: bytes, only: Collection[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """The files that are not the base's, by name.

    base: reads one of its files (of one that it lacks: nothing).  only: names of the files that are wanted.  Raises `BundleError` for a delta that is
    none, or is of another base; whether the bytes are the right ones, only their hashes say.
    """
    try:
        decoded = msgspec.msgpack.decode(delta, type=Delta)
        if decoded.format_version != FORMAT_VERSION:
            raise BundleError(
                f"delta format {decoded.format_version}, this nextclick reads {FORMAT_VERSION}: upgrade "
                "nextclick"
            )
        for name, change in decoded.files.items():
            if only is None or name in only:
                yield name, _changed(base(name), change, decoded.blobs)
    except (*UNREADABLE, DecodeError, ValueError, IndexError, KeyError, struct.error) as error:
        raise BundleError(
            f"the delta does not fit its base ({type(error).__name__}: {error})"
        ) from error


class _Blobs:
    def __init__(self) -> None:
        self.all: list[bytes] = []
        self._number: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        digest = hashlib.sha256(data).digest()
        if digest not in self._number:
            self._number[digest] = len(self.all)
            self.all.append(data)
        return self._number[digest]


class _TensorFile(NamedTuple):
    """skeleton: the file without the numbers of `tensors`."""

    skeleton: bytes
    tensors: dict[str, Array]


def _file_change(name: str, old: bytes, new: bytes, blobs: _Blobs) -> Tensors | Splice:
    kind = _kind_of(name)
    before, after = (_READERS[kind](old), _READERS[kind](new)) if kind and old else (None, None)
    if kind is None or before is None or after is None:
        return _splice(old, new, blobs)
    changes = {}
    for tensor, values in after.tensors.items():
        change = _tensor_change(before.tensors.get(tensor), values, blobs)
        if change is not None:
            changes[tensor] = change
    return Tensors(kind, blobs.add(after.skeleton), changes)


def _kind_of(name: str) -> Kind | None:
    suffix = Path(name).suffix.removeprefix(".")
    return next((kind for kind in get_args(Kind) if kind == suffix), None)


def _splice(old: bytes, new: bytes, blobs: _Blobs) -> Splice:
    a, b = np.frombuffer(old, dtype=np.uint8), np.frombuffer(new, dtype=np.uint8)
    first = _equal_at_start(a, b)
    last = _equal_at_start(a[first:][::-1], b[first:][::-1])
    return Splice(first, blobs.add(new[first : len(new) - last]), last)


def _equal_at_start(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def _tensor_change(old: Array | None, new: Array, blobs: _Blobs) -> Whole | Rows | None:
    if old is not None and old.dtype == new.dtype and old.ndim == new.ndim:
        if old.shape == new.shape and np.array_equal(_bits(old), _bits(new)):
            return None
        resized = [axis for axis in range(new.ndim) if old.shape[axis] != new.shape[axis]]
        if len(resized) <= 1:
            found = [
                (axis, _changed_slices(np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0)))
                for axis in resized or range(new.ndim)
            ]
            axis, at = min(found, key=lambda each: len(each[1]) / max(new.shape[each[0]], 1))
            if 2 * len(at) < new.shape[axis]:
                values = np.ascontiguousarray(np.moveaxis(new, axis, 0)[at])
                return Rows(
                    axis, blobs.add(at.astype("<u4").tobytes()), blobs.add(values.tobytes())
                )
    return Whole(blobs.add(new.tobytes()))


def _changed_slices(old: Array, new: Array) -> NDArray[np.int64]:
    """Slices along the first axis that are not the old ones; those added are none while they are zero."""
    n = min(len(old), len(new))
    others = tuple(range(1, new.ndim))
    differ = (_bits(old[:n]) != _bits(new[:n])).any(axis=others)
    added = (_bits(new[n:]) != 0).any(axis=others)
    return np.flatnonzero(np.concatenate((differ, added)))


def _bits(array: Array) -> Array:
    """NaN equals itself, and -0 is not 0."""
    return array.view(f"u{array.dtype.itemsize}")


def _changed(old: bytes, change: Tensors | Splice, blobs: list[bytes]) -> bytes:
    if isinstance(change, Splice):
        if min(change.first, change.last) < 0 or change.first + change.last > len(old):
            raise ValueError("it wants more of a file than there is")
        return old[: change.first] + blobs[change.blob] + old[len(old) - change.last :]
    fill = _fill_graph if change.kind == "onnx" else _fill_safetensors
    return fill(blobs[change.skeleton], old, change.changes, blobs)


def _new_tensor(
    old: Array | None,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    change: Whole | Rows | None,
    blobs: list[bytes],
) -> Array:
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize > FILE_BYTES_MAX:
        raise ValueError(f"a tensor of shape {list(shape)}")
    if isinstance(change, Whole):
        return np.frombuffer(blobs[change.blob], dtype=dtype).reshape(shape)
    if old is None or old.dtype != dtype or (change is None and old.shape != shape):
        raise ValueError("a tensor of the base is another one")
    if change is None:
        return old
    axis = change.axis
    if not 0 <= axis < len(shape) or old.ndim != len(shape):
        raise ValueError("slices along an axis that is not there")
    new = np.zeros((shape[axis], *shape[:axis], *shape[axis + 1 :]), dtype=dtype)
    before = np.moveaxis(old, axis, 0)
    n = min(len(before), len(new))
    new[:n] = before[:n]
    at = np.frombuffer(blobs[change.at], dtype="<u4").astype(np.int64)
    new[at] = np.frombuffer(blobs[change.values], dtype=dtype).reshape(len(at), *new.shape[1:])
    return np.ascontiguousarray(np.moveaxis(new, 0, axis))


# -- graphs: initializers without their raw bytes --------------------------------------------------------


def _read_graph(data: bytes) -> _TensorFile:
    model = onnx.load_model_from_string(data)
    tensors = {}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SMALL_BYTES and tensor.data_type in _KINDS:
            tensors[tensor.name] = _array_of(tensor)
            tensor.raw_data = b""
    return _TensorFile(model.SerializeToString(), tensors)


def _fill_graph(
    skeleton: bytes, old: bytes, changes: Mapping[str, Whole | Rows], blobs: list[bytes]
) -> bytes:
    model = onnx.load_model_from_string(skeleton)
    before = {t.name: t for t in onnx.load_model_from_string(old).graph.initializer}
    for tensor in model.graph.initializer:
        is_taken_out = tensor.HasField("raw_data") and not tensor.raw_data and 0 not in tensor.dims
        if not is_taken_out or tensor.data_type not in _KINDS:
            continue
        earlier = before.get(tensor.name)
        tensor.raw_data = _new_tensor(
            None if earlier is None or earlier.data_type not in _KINDS else _array_of(earlier),
            np.dtype(f"<{_KINDS[tensor.data_type]}"),
            tuple(tensor.dims),
            changes.get(tensor.name),
            blobs,
        ).tobytes()
    return bytes(model.SerializeToString())


def _array_of(tensor: onnx.TensorProto) -> Array:
    values = np.frombuffer(tensor.raw_data, dtype=f"<{_KINDS[tensor.data_type]}")
    return values.reshape(tuple(tensor.dims))


# -- safetensors: the header, as it is -------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _places(header: bytes) -> dict[str, _Place]:
    """Tensors in the order of their bytes."""
    raw = msgspec.json.decode(header[8:], type=dict[str, msgspec.Raw])
    places = {
        name: msgspec.json.decode(place, type=_Place)
        for name, place in raw.items()
        if name != "__metadata__"
    }
    return dict(sorted(places.items(), key=lambda item: item[1].data_offsets))


def _split_header(data: bytes) -> tuple[bytes, memoryview]:
    (length,) = struct.unpack_from("<Q", data)
    return data[: 8 + length], memoryview(data)[8 + length :]


def _read_safetensors(data: bytes) -> _TensorFile | None:
    header, content = _split_header(data)
    places = _places(header)
    if not all(place.dtype in _SAFETENSORS_KINDS for place in places.values()):
        return None
    return _TensorFile(header, {name: _tensor_at(content, p) for name, p in places.items()})


def _fill_safetensors(
    skeleton: bytes, old: bytes, changes: Mapping[str, Whole | Rows], blobs: list[bytes]
) -> bytes:
    header, content = _split_header(old)
    before = {
        name: _tensor_at(content, place)
        for name, place in _places(header).items()
        if place.dtype in _SAFETENSORS_KINDS
    }
    parts = [skeleton]
    for name, place in _places(skeleton).items():
        dtype = np.dtype(f"<{_SAFETENSORS_KINDS[place.dtype]}")
        new = _new_tensor(before.get(name), dtype, place.shape, changes.get(name), blobs)
        parts.append(new.tobytes())
    return b"".join(parts)


def _tensor_at(content: memoryview, place: _Place) -> Array:
    first, last = place.data_offsets
    dtype = np.dtype(f"<{_SAFETENSORS_KINDS[place.dtype]}")
    return np.frombuffer(content[first:last], dtype=dtype).reshape(place.shape)


_READERS: Final[Mapping[Kind, Callable[[bytes], _TensorFile | None]]] = {
    "onnx": _read_graph,
    "safetensors": _read_safetensors,
}
