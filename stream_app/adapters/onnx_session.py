"""ONNX Runtime on one core: sessions, its errors, and whether rows of a batch are independent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from stream_app.core.errors import BundleError


def onnx_session(directory: Path, graph: bytes) -> Any:
    """directory: of the bundle the graph is from, for messages.  Raises `BundleError`."""
    options = onnxruntime.SessionOptions()
    # One worker is one core: a second thread would spin on another worker's.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Told by its bytes, a file could be an ONNX model to us, who check it, and another one in ONNX Runtime's
    # own format to ONNX Runtime, which runs it.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 3  # errors; they reach us as exceptions as well
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if not is_runtime_error(error):
            raise
        raise failed_probe(directory, f"ONNX Runtime cannot load it ({error})") from error


def is_runtime_error(error: Exception) -> bool:
    """ONNX Runtime's exceptions share no base class of their own."""
    return type(error).__module__.startswith("onnxruntime") or isinstance(
        error, (RuntimeError, ValueError)
    )


def failed_probe(directory: Path, problem: str) -> BundleError:
    return BundleError(
        f"bundle {directory} is refused: {problem}.  Train and publish again, or promote another "
        "version with `nextclick models promote VERSION`"
    )


def rows_are_independent(results: Callable[[slice], tuple[NDArray[Any], ...]], n_rows: int) -> bool:
    """Whether a row comes out the same, bit for bit, in batches of several sizes and offsets."""
    whole = results(slice(0, n_rows))
    for start, size in ((0, 1), (n_rows - 1, 1), (1, 2), (2, 3), (3, 5), (5, 16), (7, n_rows - 7)):
        rows = slice(start, start + size)
        part = results(rows)
        if any(a[rows].tobytes() != b.tobytes() for a, b in zip(whole, part, strict=True)):
            return False
    return True
