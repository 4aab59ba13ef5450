"""What a model bundle says of itself: the contract between training and serving."""

from typing import Any, Final, Literal

import msgspec
import numpy as np

from stream_app.core.errors import BundleError

FORMAT_VERSION: Final = 1

STATE_SIZE_BYTES_MAX: Final = 65_535
VERSION_BYTES_MAX: Final = 100
"""What the session record (`stream_app.core.codec`) has room for."""

MANIFEST_FILE: Final = "manifest.json"
STEP_FILE: Final = "step.onnx"
SCORE_FILE: Final = "score.onnx"
VOCABULARY_FILE: Final = "vocabulary.json"
ITEMS_FILE: Final = "items.safetensors"
WEIGHTS_FILE: Final = "weights.safetensors"


class StateTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of the per-session model state, without the batch axis; zeros at a session's start."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float16", "float32"]

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json`.  Unknown fields are ignored, so that newer bundles stay readable.

    The graphs, batch axis first and dynamic:
      step.onnx   `item` int64 [batch], then each state tensor by its name -> the same tensors after
                  the click, each named `next_<name>`.  The stored dtype's rounding is inside the graph.
      score.onnx  each state tensor by its name, `k` int64 [1] -> `scores` float32 [batch, k],
                  `items` int64 [batch, k], best first.
    """

    format_version: int = FORMAT_VERSION
    model_version: str
    """`<UTC time>-<4 hex digits>`, e.g. `20261124T111132Z-3f2a`: sorts by time, short in every record."""
    created_at: str
    architecture: str
    """For people: `gru4rec`, ...  The worker does not look at it."""
    hyperparameters: dict[str, Any] = {}
    state: tuple[StateTensor, ...]
    n_items: int
    vocabulary_sha256: str
    files: dict[str, str]
    """SHA-256 of every other file of the bundle, by name."""
    training: dict[str, Any] = {}
    """Window (first and last event time), sessions, clicks, seconds, the version it started from."""
    metrics: dict[str, Any] = {}
    """Held-out quality of this model, the live one and popularity, as the gate saw it."""
    software: dict[str, str] = {}

    @property
    def state_size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.state)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @classmethod
    def from_json(cls, data: bytes) -> "ModelManifest":
        """Raises `BundleError` if it is no manifest or of a format this version does not know."""
        try:
            manifest = msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise BundleError(f"{MANIFEST_FILE} is unreadable: {error}") from error
        if manifest.format_version != FORMAT_VERSION:
            raise BundleError(
                f"bundle format {manifest.format_version}, this nextclick reads {FORMAT_VERSION}: "
                "upgrade nextclick, or export the model again"
            )
        if not manifest.state or manifest.n_items < 1:
            raise BundleError(f"{MANIFEST_FILE} declares no state tensor or no item")
        if not 0 < manifest.state_size_bytes <= STATE_SIZE_BYTES_MAX:
            raise BundleError(
                f"{MANIFEST_FILE} declares a state of {manifest.state_size_bytes} bytes; a session "
                f"record holds 1 to {STATE_SIZE_BYTES_MAX}: use fewer units, or float16"
            )
        if not 0 < len(manifest.model_version.encode()) <= VERSION_BYTES_MAX:
            raise BundleError(
                f"{MANIFEST_FILE}: a model version has 1 to {VERSION_BYTES_MAX} bytes, because every "
                f"session record repeats it; got {manifest.model_version[:80]!r}"
            )
        return manifest
