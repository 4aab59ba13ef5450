"""What a model bundle says of itself: the contract between training and serving."""

import math
from typing import Any, Final, Literal

import msgspec
import numpy as np

from stream_app.core.errors import BundleError
from stream_app.core.records import UNREADABLE
from stream_app.core.session_neighbours import SessionKNNConfig

FORMAT_VERSION: Final = 1

STATE_SIZE_BYTES_MAX: Final = 65_535
VERSION_BYTES_MAX: Final = 100
"""What the session record (`stream_app.core.codec`) has room for."""
CANDIDATES_MAX: Final = 1_000
"""Of all sources of a second stage together, for one click: what bounds the time that it takes."""

MANIFEST_FILE: Final = "manifest.json"
STEP_FILE: Final = "step.onnx"
SCORE_FILE: Final = "score.onnx"
VOCABULARY_FILE: Final = "vocabulary.json"
ITEMS_FILE: Final = "items.safetensors"
WEIGHTS_FILE: Final = "weights.safetensors"
RANKER_FILE: Final = "ranker.onnx"
"""The second stage's, where the bundle has one."""
SESSIONS_FILE: Final = "sessions.safetensors"
"""Past sessions that the second stage looks for neighbours in, where it does."""
DELTA_FILE: Final = "delta.bin"
"""All that a registry keeps of a refreshed model besides its manifest (`stream_app.files.bundle_delta`)."""


class StateTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of the per-session model state, without the batch axis; zeros at a session's start."""

    name: str
    """Input of both graphs by this name; `next_<name>` comes out of the step."""
    shape: tuple[int, ...]
    """Without the batch axis."""
    dtype: Literal["float16", "float32"]
    """As it is stored."""

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Scoring(msgspec.Struct, frozen=True, kw_only=True):
    """How `score.onnx` finds the best items.  The scores it gives are exact float32 in every case."""

    method: str = "exact"
    """`exact`, or one that chooses candidates by rounded scores and may miss an item."""
    recall_20: float = 1.0
    """Share of the exact best 20 that are listed, measured at export; equals stand for each other."""
    states: int = 0
    """Session states it was measured on; 0: exact, nothing to measure."""
    measured_on: str = ""
    """Whose states they were."""


EXACT: Final = Scoring()
QUANTISED: Final = "int8"
CHUNKED: Final = "int8-chunked"
"""Writes no scores of the whole catalogue down, so that its batches may be large."""
CLUSTERED: Final = "clustered"
"""Looks at a few clusters of like items only."""


SERVED_SESSION_KNN: Final = SessionKNNConfig(
    neighbours=200, sessions=2000, decay=1.5, idf=0.75, self_weight=0.6, place_decay=2.0
)
"""Between what two shops' logs are tuned to; a ranker sees to the rest."""


class SecondStage(msgspec.Struct, frozen=True, kw_only=True):
    """What `ranker.onnx` orders anew, and what it is told of each candidate.

    The graph: `features` float32 [n, n_features] -> `scores` float32 [n], row by row.
    """

    features: tuple[str, ...]
    """Names in order, as `core.candidates.feature_names` gives them.  A worker whose statistics are counted
    otherwise has other names, and answers with one stage."""
    model_items: int = 60
    """The model's best."""
    associated_items: int = 100
    """What best follows the session's last items in the statistics."""
    popular_items: int = 30
    """The most popular follow-up clicks."""
    neighbour_items: int = 0
    """Nearest to the last item by item2vec."""

    session_items: int = 0
    """What past sessions like this one vote for (`sessions.safetensors`)."""
    session_knn: SessionKNNConfig = SERVED_SESSION_KNN
    """How they are found, and vote."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Items asked of each source.  The session's own come on top, and ties with the last of a source."""
        return (
            self.model_items,
            self.associated_items,
            self.popular_items,
            self.neighbour_items,
            self.session_items,
        )


class DeltaOf(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is kept as what differs from a whole one."""

    base: str
    """That version."""
    sha256: str
    """Of `delta.bin`."""
    size_bytes: int
    """Likewise."""


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json`.  Unknown fields are ignored, so that newer bundles stay readable.

    The graphs, batch axis first and dynamic:
      step.onnx   `item` int64 [batch], then each state tensor by its name -> the same tensors after
                  the click, each named `next_<name>`.  The stored dtype's rounding is inside the graph.
      score.onnx  each state tensor by its name, `k` int64 [1] -> `scores` float32 [batch, k],
                  `items` int64 [batch, k], best first.
    """

    format_version: int = FORMAT_VERSION
    """1; a bundle of another format is refused."""
    model_version: str
    """`<UTC time>-<4 hex digits>`, e.g. `20261124T111132Z-3f2a`: sorts by time, short in every record."""
    created_at: str
    """RFC 3339, UTC."""
    architecture: str
    """For people: `gru4rec`, ...  The worker does not look at it."""
    hyperparameters: dict[str, Any] = {}
    """For people, and for a warm start of the next training."""
    state: tuple[StateTensor, ...]
    """What a session keeps between its clicks; a worker knows no more of a model's inside."""
    n_items: int
    """Items in the vocabulary: rows of the score matrix."""
    vocabulary_sha256: str
    """Checksum of `vocabulary.json`: the item of each row."""
    files: dict[str, str]
    """SHA-256 of every other file of the bundle, by name."""
    training: dict[str, Any] = {}
    """Window (first and last event time), sessions, clicks, seconds, the version it started from."""
    metrics: dict[str, Any] = {}
    """Held-out quality of this model, the live one and popularity, as the gate saw it."""
    software: dict[str, str] = {}
    """Versions that made it."""
    scoring: Scoring = EXACT
    """How the best items are found."""
    second_stage: SecondStage | None = None
    """None: the model's list is the answer."""
    delta: DeltaOf | None = None
    """None: the registry has all files."""

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
        except UNREADABLE as error:
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
        if any(size < 1 for tensor in manifest.state for size in tensor.shape):
            raise BundleError(f"{MANIFEST_FILE} declares a state tensor with a size below 1")
        if not 0 < len(manifest.model_version.encode()) <= VERSION_BYTES_MAX:
            raise BundleError(
                f"{MANIFEST_FILE}: a model version has 1 to {VERSION_BYTES_MAX} bytes, because every "
                f"session record repeats it; got {manifest.model_version[:80]!r}"
            )
        stage = manifest.second_stage
        if stage is not None and (min(stage.counts) < 0 or sum(stage.counts) > CANDIDATES_MAX):
            raise BundleError(
                f"{MANIFEST_FILE}: a second stage takes 0 to {CANDIDATES_MAX} items for a click from all "
                f"its sources together, because each costs time; this one asks for {stage.counts}"
            )
        return manifest
