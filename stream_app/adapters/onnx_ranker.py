"""The second stage of a bundle: features of candidates in, scores out, on one core."""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from stream_app.adapters.onnx_session import (
    failed_probe,
    is_runtime_error,
    onnx_session,
    rows_are_independent,
)
from stream_app.core.manifest import SecondStage
from stream_app.core.session_neighbours import SessionNeighbours
from stream_app.files.bundle import Bundle

_PROBE_ROWS: Final = 37
_MULTIPLES: Final = (1, 4, 16)


class OnnxRanker:
    """One ranker, verified and probed.  A candidate's score does not depend on the batch it is in, bit for bit."""

    def __init__(self, bundle: Bundle, stage: SecondStage, graph: bytes) -> None:
        """Use `of`, which also probes."""
        self.stage = stage
        self.directions = unit_vectors(bundle.item2vec)
        """The items' item2vec vectors at length 1 (0: it has none), float32 [n_items, dim]."""
        self.placed = bundle.placed
        """Items whose place in the model their descriptions told, bool [n_items]."""
        self.neighbours = (
            None
            if bundle.past is None
            else SessionNeighbours(bundle.past, len(bundle.vocabulary), stage.session_knn)
        )
        """Past sessions, indexed; None where the stage asks for none."""
        self._session = onnx_session(bundle.directory, graph)
        self._multiple = 1

    @classmethod
    def of(cls, bundle: Bundle) -> Self | None:
        """None where the bundle has no second stage.  Raises `BundleError`."""
        stage = bundle.manifest.second_stage
        if stage is None or bundle.ranker is None:
            return None
        ranker = cls(bundle, stage, bundle.ranker)
        rng = np.random.default_rng(0)
        features = rng.normal(0, 10, (_PROBE_ROWS, len(stage.features))).astype(np.float32)
        try:
            scores = ranker.scores(features)
        except Exception as error:
            if not is_runtime_error(error):
                raise
            raise failed_probe(bundle.directory, f"its ranker cannot be run ({error})") from error
        if scores.shape != (_PROBE_ROWS,) or not np.isfinite(scores).all():
            raise failed_probe(bundle.directory, "its ranker gives NaN, infinity or another shape")
        for multiple in _MULTIPLES:
            ranker._multiple = multiple
            if rows_are_independent(lambda rows: (ranker.scores(features[rows]),), _PROBE_ROWS):
                return ranker
        raise failed_probe(
            bundle.directory, "its ranker's scores depend on the other candidates on this processor"
        )

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n] for `features` float32 [n, n_features]."""
        n = len(features)
        if n == 0:
            return np.empty(0, dtype=np.float32)
        padding = -n % self._multiple
        if padding:
            features = np.pad(features, ((0, padding), (0, 0)))
        scores: NDArray[np.float32] = self._session.run(["scores"], {"features": features})[0]
        return scores[:n]


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row at length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float32] = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return units
