"""The two ONNX graphs of a bundle, built node by node from numpy weights.

One builder serves the exporter and the tests, so what the worker's tests run is what training
ships.  Building beats tracing here: the graphs hold the operators we chose and no others, the
batch axis is dynamic by construction, and no torch is needed (DESIGN.md, 1).
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph_builder import GraphBuilder, value
from stream_app.core.manifest import StateTensor

Floats = NDArray[np.float32]

NEVER: Final = np.finfo(np.float32).min
"""Score of a padded column: finite, yet below every real score."""

DTYPES: Final = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}

_BLOCK_SIZES: Final = (16, 32, 64, 128, 256)
_USUAL_K: Final = 20


class Network(Protocol):
    """One kind of network, as weights that know their own nodes.  Scores are query @ matrix.T + bias."""

    @property
    def output_matrix(self) -> Floats:
        """[n_items, dim]."""
        ...

    @property
    def output_bias(self) -> Floats:
        """[n_items]."""
        ...

    @property
    def n_items(self) -> int: ...

    @property
    def state(self) -> tuple[StateTensor, ...]: ...

    @property
    def query_square(self) -> float:
        """Mean square of a query's numbers, about."""
        ...

    def step(self, graph: GraphBuilder) -> list[str]:
        """Nodes from `item` int64 [batch] and the states to the new states, float32, in their order."""
        ...

    def query(self, graph: GraphBuilder) -> str:
        """Nodes from the states to the query, float32 [batch, dim], numbers within -1..1 mostly."""
        ...

    def places(self, graph: GraphBuilder) -> str:
        """How many of the best by query and matrix are wanted, int64 [1]: `k`, or what `listed` needs for it."""
        ...

    def listed(self, graph: GraphBuilder, scores: str, items: str) -> tuple[str, str]:
        """The best `k` of all, from the best `places` by query and matrix, best first, [batch, n] each."""
        ...


def block_size(n_items: int) -> int:
    """Items per block of the two-stage top-K: as many blocks to look at as items in the best blocks."""
    ideal = (n_items / _USUAL_K) ** 0.5
    return min(_BLOCK_SIZES, key=lambda size: abs(np.log(size / ideal)))


def step_graph(network: Network) -> onnx.ModelProto:
    """`item` int64 [batch] and each state -> `next_<state>`; see `stream_app.core.manifest`.

    The state's rounding to half precision is part of the step.
    """
    graph = GraphBuilder()
    outputs = []
    for tensor, after in zip(network.state, network.step(graph), strict=True):
        kind = DTYPES[tensor.dtype]
        stored = graph.node("Cast", after, output=f"next_{tensor.name}", to=kind)
        outputs.append(value(stored, kind, ["batch", *tensor.shape]))
    inputs = [value("item", TensorProto.INT64, ["batch"]), *state_inputs(network.state)]
    return graph.model("step", inputs, outputs)


def score_graph(weights: Network, *, block: int | None = None) -> onnx.ModelProto:
    """Each state and `k` int64 [1] -> `scores`, `items` [batch, k]; k at most n_items.

    Exact in two stages: the best `k` blocks of items by their maximum hold the best `k` items, also
    among equals (a block left out has `k` blocks before it, each with an item that is better, or as
    good and lower).  Equal scores come lower item index first.  The columns are padded to whole
    blocks with items that score `NEVER`.
    """
    size = block or block_size(weights.n_items)
    n_blocks = -(-weights.n_items // size)
    padding = n_blocks * size - weights.n_items
    matrix = np.pad(weights.output_matrix, ((0, padding), (0, 0))).T
    bias = np.pad(weights.output_bias, (0, padding), constant_values=NEVER)

    graph = GraphBuilder()
    query, k = weights.query(graph), weights.places(graph)
    flat = product(graph, query, matrix, bias, "output")  # [batch, n_blocks * size]
    blocks = graph.reshape(flat, (0, n_blocks, size))
    maxima = graph.node("ReduceMax", blocks, graph.integers("last_axis", (2,)), keepdims=0)

    n_chosen = graph.node("Min", k, graph.integers("n_blocks", (n_blocks,)))
    _, unordered = graph.nodes("TopK", maxima, n_chosen, n_outputs=2, axis=1, sorted=0)
    # In the order of their rows, so that the second stage, too, meets lower items first.
    chosen, _ = graph.nodes("TopK", unordered, n_chosen, n_outputs=2, axis=1, largest=0, sorted=1)
    at = graph.node("Unsqueeze", chosen, graph.integers("last_axis"))
    candidates = graph.reshape(
        graph.node("GatherND", blocks, at, batch_dims=1), (0, -1)
    )  # [batch, n_chosen * size]

    scores, position = graph.nodes("TopK", candidates, k, n_outputs=2, axis=1, sorted=1)
    size_name = graph.integers("block_size", (size,))
    block_of = graph.node("GatherElements", chosen, graph.node("Div", position, size_name), axis=1)
    within = graph.node("Mod", position, size_name)
    items = graph.node("Mul", block_of, size_name)
    return score_model(graph, weights, scores, graph.node("Add", items, within))


def product(
    graph: GraphBuilder, signal: str, matrix: Floats | None, bias: Floats, name: str
) -> str:
    if matrix is not None:
        signal = graph.node("MatMul", signal, graph.constant(f"{name}_weights", matrix))
    return graph.node("Add", signal, graph.constant(f"{name}_bias", bias))


def ranked(graph: GraphBuilder, scores: str, items: str, k: str) -> tuple[str, str]:
    """The best `k` of some items, best first, equals in the order of their item index.

    scores, items: in any order, each item once, [batch, n] both, n at least `k`.
    """
    n = graph.node("Gather", graph.node("Shape", items), graph.integers("axis_1", (1,)), axis=0)
    ascending, order = graph.nodes("TopK", items, n, n_outputs=2, axis=1, largest=0, sorted=1)
    in_order = graph.node("GatherElements", scores, order, axis=1)
    best, position = graph.nodes("TopK", in_order, k, n_outputs=2, axis=1, sorted=1)
    return best, graph.node("GatherElements", ascending, position, axis=1)


def state_inputs(state: Sequence[StateTensor]) -> list[onnx.ValueInfoProto]:
    return [value(t.name, DTYPES[t.dtype], ["batch", *t.shape]) for t in state]


def score_model(graph: GraphBuilder, network: Network, scores: str, items: str) -> onnx.ModelProto:
    """The scoring graph from nodes that give the best `network.places`, best first."""
    scores, items = network.listed(graph, scores, items)
    graph.node("Identity", scores, output="scores")
    graph.node("Identity", items, output="items")
    return graph.model(
        "score",
        [*state_inputs(network.state), value("k", TensorProto.INT64, [1])],
        [
            value("scores", TensorProto.FLOAT, ["batch", "n"]),
            value("items", TensorProto.INT64, ["batch", "n"]),
        ],
    )
