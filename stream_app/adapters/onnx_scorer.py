"""The live model: `Scorer` over the two ONNX graphs of a bundle, on one core."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from stream_app.adapters.onnx_ranker import OnnxRanker
from stream_app.adapters.onnx_session import (
    failed_probe,
    is_runtime_error,
    onnx_session,
    rows_are_independent,
)
from stream_app.core.manifest import CHUNKED, CLUSTERED, ModelManifest, StateTensor
from stream_app.core.ports import StateRows
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.files.bundle import Bundle, open_bundle

SCORES_TOGETHER: Final = 2**19
"""Scores written down at once, 2 MB: about what a core's own cache holds.  Larger batches are scored in
slices, which changes no bit of them."""
ROWS_TOGETHER: Final = range(16, 129)
"""Fewer rows at once do not pay for reading the item matrix; more are no faster, whatever they write."""

_ROWS_OF_CLUSTERS: Final = 16
"""Each row gathers half a megabyte of its own, so more rows only crowd each other out of the cache."""
PLACES_TOGETHER: Final = 2**13
"""Places of lists filled at once: for each, up to 60 kB of candidates are gathered."""

_PROBE_ROWS: Final = 37
_PROBE_K: Final = (1, 1000)
"""Lengths of lists tried beside the usual 20: a wide one meets the padding of the item matrix, if any."""
_MULTIPLES: Final = (1, 4, 16)


class OnnxScorer:
    """One model, verified, probed and warm.  Not for several threads at once.

    A row's result does not depend on the batch it is in, bit for bit: recommendations can be
    reproduced from the log in batches of any size.  See `export/DESIGN.md`, 2, for what was measured.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Use `load`, which also probes."""
        self._manifest = bundle.manifest
        self._vocabulary = bundle.vocabulary
        self.bundle_bytes = bundle.size_bytes
        """All files of the bundle together."""
        self._fields = _Fields(bundle.manifest.state)
        self._step = onnx_session(bundle.directory, bundle.step)
        self._score = onnx_session(bundle.directory, bundle.score)
        self._step_outputs = [f"next_{tensor.name}" for tensor in bundle.manifest.state]
        self._rows_max = rows_together(bundle.manifest.n_items, bundle.manifest.scoring.method)
        self._multiple = 1
        self.ranker = OnnxRanker.of(bundle)
        """The second stage; None where the bundle has none."""
        self._k = np.array([20], dtype=np.int64)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Verify the bundle (`open_bundle`), load it, run a probe, warm up.

        Raises `BundleError`.  Takes 0.1 to 1 s, so do it aside from the loop that serves.
        """
        return cls.of(open_bundle(directory))

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The same from a bundle that is open already."""
        scorer = cls(bundle)
        scorer._probe(bundle.directory)
        scorer.warm_up()
        return scorer

    @property
    def model_version(self) -> str:
        return self._manifest.model_version

    @property
    def manifest(self) -> ModelManifest:
        return self._manifest

    @property
    def vocabulary(self) -> ItemVocabulary:
        return self._vocabulary

    @property
    def state_size_bytes(self) -> int:
        return self._fields.size_bytes

    def step(self, states: StateRows, item_indexes: NDArray[np.int64]) -> StateRows:
        """States after one more click each; see `Scorer.step`."""
        n = len(item_indexes)
        if n == 0:
            return states[:0].copy()
        padding = -n % self._multiple
        if padding:
            states = np.pad(states, ((0, padding), (0, 0)))
            item_indexes = np.pad(item_indexes, (0, padding))
        feed = self._fields.split(states)
        feed["item"] = item_indexes
        return self._fields.join(self._step.run(self._step_outputs, feed))[:n]

    def top_k(self, states: StateRows, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Best `min(k, n_items)` items of each row, equals in the order of their index."""
        k = min(k, self._manifest.n_items)
        rows = min(self._rows_max, max(1, PLACES_TOGETHER // k))
        if 0 < len(states) <= rows:
            return self._top_k_slice(states, k)
        parts = [self._top_k_slice(states[i : i + rows], k) for i in range(0, len(states), rows)]
        if not parts:
            return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
        scores, items = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(items)

    def tensors_of(self, states: StateRows) -> dict[str, NDArray[Any]]:
        """The rows as the manifest's tensors by name, [n, *shape] each; for people and for tests."""
        return self._fields.split(states)

    def warm_up(self, rows: int = 256) -> None:
        """Run every shape of batch once, so that the first click pays for no allocation."""
        for n in (1, rows):
            states = self.step(
                np.zeros((n, self.state_size_bytes), dtype=np.uint8), np.zeros(n, dtype=np.int64)
            )
            self.top_k(states, 20)

    def _top_k_slice(
        self, states: StateRows, k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        n = len(states)
        padding = -n % self._multiple
        if padding:
            states = np.pad(states, ((0, padding), (0, 0)))
        feed = self._fields.split(states)
        if self._k[0] != k:
            self._k = np.array([k], dtype=np.int64)
        feed["k"] = self._k
        scores, items = self._score.run(["scores", "items"], feed)
        return scores[:n], items[:n]

    def _probe(self, directory: Path) -> None:
        """Two clicks and a list for a few dozen items.  Raises `BundleError` on nonsense."""
        n_items = self._manifest.n_items
        indexes = np.linspace(0, n_items - 1, _PROBE_ROWS).astype(np.int64)
        fresh = np.zeros((_PROBE_ROWS, self.state_size_bytes), dtype=np.uint8)
        try:
            once = self.step(fresh, indexes)
            twice = self.step(once, indexes[::-1])
            lists = [(*self.top_k(twice, 20), 20)]
            lists += [(*self.top_k(twice[:3], k), k) for k in _PROBE_K]
        except Exception as error:
            if not is_runtime_error(error):
                raise
            raise failed_probe(directory, f"it cannot be run ({error})") from error
        states = [*self._fields.split(once).values(), *self._fields.split(twice).values()]
        if not all(np.isfinite(value).all() for value in states):
            raise failed_probe(directory, "it gives NaN or infinity")
        if not once.any() or np.array_equal(once, twice):
            raise failed_probe(directory, "a click does not change the state")
        for scores, items, k in lists:
            for problem in _list_problems(scores, items, k=min(k, n_items), n_items=n_items):
                raise failed_probe(directory, problem)
        self._multiple = self._stable_multiple(directory, once, indexes)

    def _stable_multiple(
        self, directory: Path, states: StateRows, indexes: NDArray[np.int64]
    ) -> int:
        """Smallest multiple to which batches must be padded for rows not to depend on the batch.

        1 on every processor measured; another one's kernels may treat a single row in their own way.
        """

        def results(rows: slice) -> tuple[NDArray[Any], ...]:
            return self.step(states[rows], indexes[rows]), *self.top_k(states[rows], 20)

        for multiple in _MULTIPLES:
            self._multiple = multiple
            if rows_are_independent(results, len(indexes)):
                return multiple
        raise failed_probe(
            directory, "its answers depend on the other clicks of a batch on this processor"
        )


def _list_problems(
    scores: NDArray[np.float32], items: NDArray[np.int64], *, k: int, n_items: int
) -> Iterator[str]:
    """What is wrong with lists of `k` items each, worst first."""
    if items.shape != scores.shape or items.shape[1:] != (k,):
        yield f"a list has the shape {list(items.shape)}"
        return
    if not np.isfinite(scores).all():
        yield "it gives NaN or infinity"
    if items.min() < 0 or items.max() >= n_items:
        yield "it recommends items outside the vocabulary"
    if any(len(set(row)) < len(row) for row in items.tolist()):
        yield "it recommends an item twice"
    fall, rise = np.diff(scores, axis=1), np.diff(items, axis=1)
    if (fall > 0).any():
        yield "its lists are not in the order of their scores"
    if ((fall == 0) & (rise < 0)).any():
        yield "its lists do not put equals in the order of their item index"


def rows_together(n_items: int, method: str) -> int:
    """Rows best scored at once, by `Scoring.method`: what they write down is to stay in the cache."""
    least, most = ROWS_TOGETHER.start, ROWS_TOGETHER.stop - 1
    if method == CHUNKED:
        return most
    if method == CLUSTERED:
        return _ROWS_OF_CLUSTERS
    return min(max(SCORES_TOGETHER // n_items, least), most)


class _Fields:
    """Where each state tensor lies in the bytes of a row."""

    def __init__(self, tensors: tuple[StateTensor, ...]) -> None:
        self._places: list[tuple[str, int, int, np.dtype[Any], tuple[int, ...]]] = []
        end = 0
        for tensor in tensors:
            start, end = end, end + tensor.size_bytes
            dtype = np.dtype(tensor.dtype).newbyteorder("<")
            self._places.append((tensor.name, start, end, dtype, tensor.shape))
        self.size_bytes = end

    def split(self, rows: StateRows) -> dict[str, NDArray[Any]]:
        """uint8 [n, size_bytes] -> the tensors, [n, *shape] each."""
        return {
            name: np.ascontiguousarray(rows[:, start:end]).view(dtype).reshape(len(rows), *shape)
            for name, start, end, dtype, shape in self._places
        }

    def join(self, tensors: list[NDArray[Any]]) -> StateRows:
        rows = [tensor.reshape(len(tensor), -1).view(np.uint8) for tensor in tensors]
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
