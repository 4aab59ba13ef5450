"""Which scoring graph a model gets: the fastest whose lists were measured to be as good as exact ones."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from export.clustered_graph import clustered_score_graph
from export.graphs import Network, score_graph
from export.quantised_graphs import chunked_score_graph, quantised_score_graph
from stream_app.core.manifest import CHUNKED, CLUSTERED, EXACT, QUANTISED, Scoring
from stream_app.evaluation.sessions import SessionTable

EXACT_UP_TO: Final = 4_000
"""Items.  Looking at so few twice takes longer than once in float32 (DESIGN.md, 12)."""
CHUNKED_FROM: Final = 300_000
"""Items.  So many integer scores of a batch would leave the cache before they are looked at."""
RECALL_MIN: Final = 0.999
"""Of the exact top 20; below, a model is served exactly."""
APPROXIMATE_RECALL_MIN: Final = 0.95
"""The same where speed was asked for: below, looking at clusters only is refused."""
CUT: Final = 20
STATES: Final = 1024
"""States to measure on: 20,480 places, so that one place lost in a thousand is seen."""
_CLICKS_MAX: Final = 6
_ROWS: Final = 64

States = dict[str, NDArray[Any]]
"""By name of the state tensor, [n, *shape] each, as stored."""


def choose_scoring(
    weights: Network,
    step: onnx.ModelProto,
    clicks: NDArray[np.int64],
    *,
    measured_on: str,
    approximate: bool = False,
) -> tuple[onnx.ModelProto, Scoring]:
    """The scoring graph for a model, and what was measured of it.

    clicks: int64 [n, clicks], item indexes of sessions, -1 after their end; the quantised graph is
    compared with the exact one on the states these lead to, and refused below `RECALL_MIN`.
    approximate: try clusters first where the catalogue is large enough to gain by them.
    """
    exact = score_graph(weights)
    if weights.n_items <= EXACT_UP_TO:
        return exact, EXACT
    states = states_after(step, clicks)
    for method, build, least in _faster(weights.n_items, approximate=approximate):
        graph = build(weights)
        recall = recall_of(graph, exact, states)
        if recall >= least:
            return graph, Scoring(
                method=method,
                recall_20=round(recall, 6),
                states=len(clicks),
                measured_on=measured_on,
            )
    return exact, EXACT


def clicks_of(sessions: SessionTable, *, seed: int = 0) -> NDArray[np.int64]:
    """Beginnings of sessions chosen at random, int64 [at most STATES, clicks], -1 after their end."""
    sessions = sessions.known_only()
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(sessions.n_sessions)[:STATES]
    clicks = np.full((len(chosen), _CLICKS_MAX), -1, dtype=np.int64)
    for row, session in zip(clicks, chosen, strict=True):
        start, end = sessions.session_starts[session : session + 2]
        first = sessions.item_indexes[start:end][:_CLICKS_MAX]
        row[: len(first)] = first
    return clicks


def popular_clicks(popularity: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.int64]:
    """Made-up sessions where real ones are not at hand: items drawn by their share of the clicks."""
    rng = np.random.default_rng(seed)
    shares = popularity.astype(np.float64) + 1e-9
    drawn = rng.choice(len(shares), size=(STATES, _CLICKS_MAX), p=shares / shares.sum())
    lengths = rng.integers(1, _CLICKS_MAX + 1, size=(STATES, 1))
    return np.where(np.arange(_CLICKS_MAX) < lengths, drawn, -1).astype(np.int64)


def states_after(step: onnx.ModelProto, clicks: NDArray[np.int64]) -> States:
    """The state after each session's last click.  clicks: int64 [n, clicks], -1 after the end."""
    session = _session(step)
    states: States = {}
    for value in step.graph.input:
        if value.name != "item":
            kind = value.type.tensor_type
            shape = [size.dim_value for size in kind.shape.dim[1:]]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            states[value.name] = np.zeros((len(clicks), *shape), dtype=dtype)
    names = list(states)
    for items in clicks.T:
        rows = np.flatnonzero(items >= 0)
        if len(rows) == 0:
            continue
        feed = {"item": items[rows], **{name: states[name][rows] for name in names}}
        after = session.run([f"next_{name}" for name in names], feed)
        for name, new in zip(names, after, strict=True):
            states[name][rows] = new
    return states


def recall_of(
    candidate: onnx.ModelProto, exact: onnx.ModelProto, states: States, *, k: int = CUT
) -> float:
    """Share of the exact best `k` (at most n_items) that the candidate lists; 0.0 of no states.

    An item that scores as the last of the exact list is as good as that one.
    """
    found = places = 0
    score, reference = _session(candidate), _session(exact)
    n = len(next(iter(states.values())))
    asked = np.array([k], dtype=np.int64)
    for first in range(0, n, _ROWS):
        feed: dict[str, Any] = {name: rows[first : first + _ROWS] for name, rows in states.items()}
        ours = score.run(["scores"], {**feed, "k": asked})[0]
        theirs = reference.run(["scores"], {**feed, "k": asked})[0]
        last = theirs[:, -1:]
        tolerance = 1e-5 * np.abs(theirs).max(axis=1, keepdims=True)
        found += int((ours >= last - tolerance).sum())
        places += ours.size
    return found / places if places else 0.0


def _faster(
    n_items: int, *, approximate: bool
) -> Iterator[tuple[str, Callable[[Network], onnx.ModelProto], float]]:
    """What to try, fastest first: method, graph, the recall it must have."""
    if n_items < CHUNKED_FROM:
        yield QUANTISED, quantised_score_graph, RECALL_MIN
        return
    if approximate:
        yield CLUSTERED, clustered_score_graph, APPROXIMATE_RECALL_MIN
    yield CHUNKED, chunked_score_graph, RECALL_MIN


def _session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
