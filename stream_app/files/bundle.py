"""A model bundle on disk: written so that it is whole or not there, read only when every check passes.

What the files are is said in `stream_app.core.manifest`.  Nothing in a bundle is ever executed but
the operators listed here, and nothing outside its directory is ever read on its behalf.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import safetensors
import safetensors.numpy
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from stream_app.core.errors import BundleError, ConfigurationError
from stream_app.core.manifest import (
    EXACT,
    ITEMS_FILE,
    MANIFEST_FILE,
    RANKER_FILE,
    SCORE_FILE,
    SESSIONS_FILE,
    STEP_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    ModelManifest,
    Scoring,
    SecondStage,
    StateTensor,
)
from stream_app.core.session_neighbours import PastSessions
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.files.bundle_limits import read_bounded, size_problems
from stream_app.files.bundle_sessions import past_sessions_of, sessions_bytes

Tensors = Mapping[str, NDArray[Any]]

REQUIRED_FILES: Final = (STEP_FILE, SCORE_FILE, VOCABULARY_FILE, ITEMS_FILE, WEIGHTS_FILE)
READ_FILES: Final = frozenset((*REQUIRED_FILES, RANKER_FILE, SESSIONS_FILE))
ITEM2VEC: Final = "item2vec"
POPULARITY: Final = "popularity"
PLACED: Final = "placed"

OPSETS: Final = range(13, 25)
"""Operator sets we know the operators of."""

ALLOWED_OPERATORS: Final = frozenset(
    """
    Abs Add Cast Clip Concat Constant ConstantOfShape Div Elu Equal Erf Exp Expand Flatten Gather
    GatherElements GatherND Gelu Gemm Greater Identity LayerNormalization LeakyRelu Less Log
    MatMul MatMulInteger Max Min Mod Mul Neg Pad Pow QuantizeLinear Range ReduceL2 ReduceMax
    ReduceMean ReduceMin ReduceSum Relu Reshape Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub
    Sum Tanh TopK Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - 60 quoted names would hide which they are
)
"""Plain arithmetic on tensors: no loops, no branches, no strings, no files, no chance."""

MANIFEST_BYTES_MAX: Final = 2**22
FILES_MAX: Final = 32
"""Listed by a manifest: five are ours, a later version may add some."""
_NAME_BYTES_MAX: Final = 255
_TEMPORARY: Final = ".partial-"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check short of running it (`OnnxScorer.load` does that)."""

    directory: Path
    manifest: ModelManifest
    vocabulary: ItemVocabulary
    step: bytes
    """`step.onnx` as it was verified; run these bytes, not the file."""
    score: bytes
    item2vec: NDArray[np.float32]
    """[n_items, dim]."""
    popularity: NDArray[np.float32]
    """[n_items]: share of the clicks of the training window."""
    placed: NDArray[np.bool_]
    """[n_items]: where its description, not its clicks, told an item's place in the model."""
    ranker: bytes | None = None
    """`ranker.onnx` as it was verified; there whenever `manifest.second_stage` is."""
    past: PastSessions | None = None
    """There whenever the second stage takes candidates from past sessions."""

    @property
    def size_bytes(self) -> int:
        """Of all its files, the manifest included."""
        names = (MANIFEST_FILE, *self.manifest.files)
        return sum((self.directory / name).stat().st_size for name in names)


class Items(NamedTuple):
    """What a bundle says of its items; see `Bundle`."""

    vocabulary: ItemVocabulary
    item2vec: NDArray[np.float32]
    popularity: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleContent:
    """What goes into a bundle; the manifest's hashes and sizes follow from it."""

    model_version: str
    created_at: str
    architecture: str
    state: Sequence[StateTensor]
    vocabulary: ItemVocabulary
    step: bytes
    score: bytes
    item2vec: NDArray[np.float32]
    popularity: NDArray[np.float32]
    weights: Tensors
    """Everything training needs to go on from here, by name; no NaN."""
    hyperparameters: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    software: Mapping[str, str]
    scoring: Scoring = EXACT
    placed: NDArray[np.bool_] | None = None
    """None: no item is."""
    second_stage: SecondStage | None = None
    ranker: bytes | None = None
    """Both or neither."""
    past: PastSessions | None = None
    """Sessions of the items of `vocabulary`, for a second stage that asks for them."""


def write_bundle(target: Path, content: BundleContent) -> ModelManifest:
    """Publish a bundle as the directory `target`, which must not exist: whole, or not at all.

    A process killed on the way leaves a hidden `.partial-` sibling that `remove_leftovers` clears.
    Raises `ConfigurationError` where the place cannot be written to or is taken.
    """
    if target.exists():
        raise ConfigurationError(f"{target} exists already: name another directory, or remove it")
    temporary = target.with_name(f".{target.name}{_TEMPORARY}{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        manifest = _write_files(temporary, content)
        fsync_directory(temporary)
        temporary.rename(target)
        fsync_directory(target.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise cannot_write(target, error) from error
    return manifest


def write_bundle_into(directory: Path, content: BundleContent) -> ModelManifest:
    """Lay a bundle into a directory that holds other files, too (a checkpoint).

    The manifest goes first and comes back last, so that a half-written one is no bundle at all.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MANIFEST_FILE).unlink(missing_ok=True)
        manifest = _write_files(directory, content)
        fsync_directory(directory)
    except OSError as error:
        raise cannot_write(directory, error) from error
    return manifest


def remove_leftovers(parent: Path) -> list[Path]:
    """Remove what a killed writer left in `parent`, and say what it was.

    Only for a directory with one writer: a bundle being written by somebody else goes as well.
    """
    leftovers = sorted(parent.glob(f".*{_TEMPORARY}*")) if parent.is_dir() else []
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return leftovers


def open_bundle(directory: Path) -> Bundle:
    """Read and verify a bundle: hashes, vocabulary, graphs, shapes, finite numbers.

    Raises `BundleError` saying what is wrong and what to do.  Reads every file once (0.1 s for 50 MB).
    """
    manifest = read_manifest(directory)
    missing = sorted(set(REQUIRED_FILES) - set(manifest.files))
    if missing:
        raise _refused(directory, f"the manifest does not list {', '.join(missing)}")
    if len(manifest.files) > FILES_MAX:
        raise _refused(directory, f"the manifest lists {len(manifest.files)} files")
    data = {}
    for name, digest in manifest.files.items():
        content = _read_verified(directory, name, digest)
        if name in READ_FILES:  # of what a later version added, only the hash has to be right
            data[name] = content

    vocabulary = ItemVocabulary.from_json(
        data[VOCABULARY_FILE], expected_sha256=manifest.vocabulary_sha256
    )
    if len(vocabulary) != manifest.n_items:
        raise _refused(
            directory,
            f"{len(vocabulary)} items in the vocabulary, {manifest.n_items} in the manifest",
        )
    for problem in (
        *_graph_problems(STEP_FILE, data[STEP_FILE], *_step_signature(manifest)),
        *_graph_problems(SCORE_FILE, data[SCORE_FILE], *_score_signature(manifest)),
        *_ranker_problems(manifest, data.get(RANKER_FILE)),
    ):
        raise _refused(directory, problem)
    items = _finite_tensors(directory, ITEMS_FILE, data[ITEMS_FILE])
    _finite_tensors(directory, WEIGHTS_FILE, data[WEIGHTS_FILE])
    item2vec = _table(directory, items, ITEM2VEC, n_items=manifest.n_items, rank=2)
    popularity = _table(directory, items, POPULARITY, n_items=manifest.n_items, rank=1)
    return Bundle(
        directory=directory,
        manifest=manifest,
        vocabulary=vocabulary,
        step=data[STEP_FILE],
        score=data[SCORE_FILE],
        item2vec=item2vec,
        popularity=popularity,
        placed=_placed(directory, items, n_items=manifest.n_items),
        ranker=data.get(RANKER_FILE) if manifest.second_stage is not None else None,
        past=_past(directory, manifest, data.get(SESSIONS_FILE)),
    )


def read_manifest(directory: Path) -> ModelManifest:
    """The manifest alone, nothing verified.  Raises `BundleError` where there is none."""
    try:
        data = read_bounded(directory / MANIFEST_FILE, MANIFEST_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{directory} is no model bundle: it has no {MANIFEST_FILE}.  Make one with "
            "`nextclick train --data FILE --out DIR` or `nextclick retrain --once`"
        ) from error
    except OSError as error:
        raise BundleError(f"{directory / MANIFEST_FILE}: {error.strerror}") from error
    return ModelManifest.from_json(data)


def read_weights(directory: Path) -> dict[str, NDArray[Any]]:
    """Tensors of `weights.safetensors`, the hash verified: training goes on from them."""
    digest = read_manifest(directory).files.get(WEIGHTS_FILE, "")
    data = _read_verified(directory, WEIGHTS_FILE, digest)
    return _finite_tensors(directory, WEIGHTS_FILE, data)


def read_items(manifest: ModelManifest, vocabulary: bytes, tables: bytes) -> Items:
    """From `vocabulary.json` and `items.safetensors` alone, hashes verified.  Raises `BundleError`."""
    directory = Path(manifest.model_version)
    for name, data in ((VOCABULARY_FILE, vocabulary), (ITEMS_FILE, tables)):
        if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
            raise _refused(directory, f"{name} does not have the SHA-256 of the manifest")
    tensors = _finite_tensors(directory, ITEMS_FILE, tables)
    return Items(
        ItemVocabulary.from_json(vocabulary, expected_sha256=manifest.vocabulary_sha256),
        _table(directory, tensors, ITEM2VEC, n_items=manifest.n_items, rank=2),
        _table(directory, tensors, POPULARITY, n_items=manifest.n_items, rank=1),
    )


def is_file_name(name: str) -> bool:
    """Whether a name from a manifest can only be a file of the bundle's own directory."""
    return (
        name not in {"", ".", ".."}
        and Path(name).name == name
        and name.isprintable()
        and len(name.encode()) <= _NAME_BYTES_MAX
    )


def cannot_write(target: object, error: OSError) -> ConfigurationError:
    reason = error.strerror or error
    return ConfigurationError(
        f"cannot write to {target}: {reason}.  Check that the directory exists, is writable "
        "for this user and has room, or set another one (--registry, NEXTCLICK_REGISTRY)"
    )


def fsync_directory(directory: Path) -> None:
    """A rename is durable only once its directory is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_files(directory: Path, content: BundleContent) -> ModelManifest:
    tables: dict[str, NDArray[Any]] = {
        ITEM2VEC: np.ascontiguousarray(content.item2vec, dtype=np.float32),
        POPULARITY: np.ascontiguousarray(content.popularity, dtype=np.float32),
    }
    if content.placed is not None and content.placed.any():
        tables[PLACED] = content.placed.astype(np.uint8)
    weights = {name: np.ascontiguousarray(array) for name, array in content.weights.items()}
    data = {
        STEP_FILE: content.step,
        SCORE_FILE: content.score,
        VOCABULARY_FILE: content.vocabulary.to_json(),
        ITEMS_FILE: safetensors.numpy.save(tables),
        WEIGHTS_FILE: safetensors.numpy.save(weights),
    }
    assert (content.ranker is None) == (content.second_stage is None), "both or neither"
    if content.ranker is not None:
        data[RANKER_FILE] = content.ranker
    if content.past is not None:
        data[SESSIONS_FILE] = sessions_bytes(content.past)
    manifest = ModelManifest(
        model_version=content.model_version,
        created_at=content.created_at,
        architecture=content.architecture,
        hyperparameters=dict(content.hyperparameters),
        state=tuple(content.state),
        n_items=len(content.vocabulary),
        vocabulary_sha256=content.vocabulary.sha256,
        files={name: hashlib.sha256(raw).hexdigest() for name, raw in data.items()},
        training=dict(content.training),
        metrics=dict(content.metrics),
        software=dict(content.software),
        scoring=content.scoring,
        second_stage=content.second_stage,
    )
    for name, raw in (*data.items(), (MANIFEST_FILE, manifest.to_json())):
        temporary = directory / f".{name}{_TEMPORARY}"
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / name)
    return manifest


def _read_verified(directory: Path, name: str, expected_sha256: str) -> bytes:
    if not is_file_name(name) or (directory / name).is_symlink():
        raise _refused(directory, f"{name!r} is no file of the bundle's own directory")
    try:
        data = read_bounded(directory / name)
    except OSError as error:
        raise _refused(directory, f"{name} cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != expected_sha256:
        raise _refused(
            directory, f"{name} ({len(data)} bytes) does not have the SHA-256 of the manifest"
        )
    return data


def _refused(directory: Path, problem: str) -> BundleError:
    return BundleError(
        f"bundle {directory} is refused: {problem}.  It was damaged or not made by this nextclick: "
        "publish the model again (`nextclick export`, `nextclick retrain --once`), or promote another "
        "version"
    )


def _finite_tensors(directory: Path, name: str, data: bytes) -> dict[str, NDArray[Any]]:
    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _refused(directory, f"{name} is no safetensors file ({error})") from error
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise _refused(directory, f"tensor {key} of {name} holds NaN or infinity")
    return tensors


def _table(
    directory: Path, tensors: Tensors, name: str, *, n_items: int, rank: int
) -> NDArray[np.float32]:
    table = tensors.get(name)
    if table is None or table.dtype != np.float32 or table.ndim != rank or len(table) != n_items:
        found = "missing" if table is None else f"{table.dtype} {list(table.shape)}"
        shape = "[n_items]" if rank == 1 else "[n_items, dim]"
        raise _refused(
            directory, f"{name} of {ITEMS_FILE} is {found}, not float32 {shape} of {n_items} items"
        )
    return table


def _placed(directory: Path, tensors: Tensors, *, n_items: int) -> NDArray[np.bool_]:
    """Not in a bundle without such items, nor in one of an earlier version."""
    table = tensors.get(PLACED)
    if table is None:
        return np.zeros(n_items, dtype=bool)
    if table.dtype != np.uint8 or table.shape != (n_items,):
        raise _refused(
            directory,
            f"{PLACED} of {ITEMS_FILE} is {table.dtype} {list(table.shape)}, not uint8 [n_items] of "
            f"{n_items} items",
        )
    return table.astype(bool)


def _past(directory: Path, manifest: ModelManifest, data: bytes | None) -> PastSessions | None:
    stage = manifest.second_stage
    if stage is None or stage.session_items == 0:
        return None
    if data is None:
        raise _refused(
            directory,
            f"its second stage looks at past sessions but the manifest does not list {SESSIONS_FILE}",
        )
    try:
        return past_sessions_of(data, n_items=manifest.n_items)
    except ValueError as error:
        raise _refused(directory, f"{SESSIONS_FILE} is not used: {error}") from error


Signature = dict[str, tuple[int, tuple[int | None, ...]]]
"""Tensor name -> element type, shape; None: any size."""


def _step_signature(manifest: ModelManifest) -> tuple[Signature, Signature]:
    states = _states(manifest)
    after = {f"next_{name}": kind for name, kind in states.items()}
    return {"item": (TensorProto.INT64, (None,)), **states}, after


def _score_signature(manifest: ModelManifest) -> tuple[Signature, Signature]:
    return (
        {"k": (TensorProto.INT64, (1,)), **_states(manifest)},
        {"scores": (TensorProto.FLOAT, (None, None)), "items": (TensorProto.INT64, (None, None))},
    )


def _ranker_problems(manifest: ModelManifest, data: bytes | None) -> Iterator[str]:
    stage = manifest.second_stage
    if stage is None:
        return
    if data is None:
        yield f"it declares a second stage but the manifest does not list {RANKER_FILE}"
        return
    yield from _graph_problems(
        RANKER_FILE,
        data,
        {"features": (TensorProto.FLOAT, (None, len(stage.features)))},
        {"scores": (TensorProto.FLOAT, (None,))},
    )


def _states(manifest: ModelManifest) -> Signature:
    kinds = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
    return {tensor.name: (kinds[tensor.dtype], (None, *tensor.shape)) for tensor in manifest.state}


def _graph_problems(file: str, data: bytes, inputs: Signature, outputs: Signature) -> Iterator[str]:
    """What is wrong with a graph, worst first.  Nothing outside `data` is read."""
    try:
        yield from _problems_of(file, onnx.load_model_from_string(data), inputs, outputs)
    except (DecodeError, ValueError, KeyError, TypeError) as error:
        # The last two come of names that are no text, and of element types that there are not.
        yield f"{file} is no ONNX model ({type(error).__name__}: {error})"


def _problems_of(
    file: str, model: onnx.ModelProto, inputs: Signature, outputs: Signature
) -> Iterator[str]:
    graph = model.graph
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if set(opsets) - {"", "ai.onnx"} or model.functions:
        yield f"{file} uses operators of its own ({', '.join(sorted(set(opsets) - {''}))})"
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if version not in OPSETS:
        yield f"{file} has operator set {version}, not {OPSETS.start} to {OPSETS.stop - 1}"
    for node in graph.node:
        if node.domain not in {"", "ai.onnx"} or node.op_type not in ALLOWED_OPERATORS:
            yield f"{file} uses the operator {node.domain}::{node.op_type}, which is not allowed"
        if any(a.HasField("g") or a.graphs or a.sparse_tensors for a in node.attribute):
            yield f"{file} has a graph or a sparse tensor inside its operator {node.op_type}"
        if any(a.name == "num_outputs" and a.i != len(node.output) for a in node.attribute):
            # Shape inference (onnx 1.22) does not look and ends the whole process; found by fuzzing.
            yield f"{file} has an operator {node.op_type} that says another number of outputs"
            return
    if graph.sparse_initializer:
        yield f"{file} has sparse weights, which are not allowed"
    for tensor in _tensors(graph):
        if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
            yield f"{file} keeps tensor {tensor.name} in another file (external data)"
        elif not _is_finite(tensor):
            yield f"tensor {tensor.name} of {file} holds NaN or infinity, or is damaged"
    yield from _signature_problems(f"inputs of {file}", graph.input, inputs)
    yield from _signature_problems(f"outputs of {file}", graph.output, outputs)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        yield f"{file} is no valid ONNX model ({str(error).splitlines()[0]})"
        return
    yield from size_problems(file, model)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _is_finite(tensor: onnx.TensorProto) -> bool:
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError):
        return False
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def _signature_problems(
    what: str, found: Sequence[onnx.ValueInfoProto], expected: Signature
) -> Iterator[str]:
    names = [value.name for value in found]
    if sorted(names) != sorted(expected):
        yield f"{what} are {', '.join(names)}, the manifest declares {', '.join(expected)}"
        return
    for value in found:
        kind, shape = expected[value.name]
        tensor = value.type.tensor_type
        actual = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        fits = len(actual) == len(shape) and all(
            have == want for have, want in zip(actual, shape, strict=True)
        )
        if tensor.elem_type != kind or not fits:
            yield (
                f"{value.name} among the {what} has shape {actual}, element type {tensor.elem_type}; "
                f"the manifest declares {list(shape)}, {kind}"
            )
