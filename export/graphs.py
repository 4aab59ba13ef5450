"""The two ONNX graphs of a bundle, built node by node from numpy weights.

One builder serves the exporter and the tests, so what the worker's tests run is what training
ships.  Building beats tracing here: the graphs hold the operators we chose and no others, the
batch axis is dynamic by construction, and no torch is needed (DESIGN.md, 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph_builder import GraphBuilder, value
from stream_app.core.manifest import StateTensor

Floats = NDArray[np.float32]

NEVER: Final = np.finfo(np.float32).min
"""Score of a padded column: finite, yet below every real score."""

_BLOCK_SIZES: Final = (16, 32, 64, 128, 256)
_USUAL_K: Final = 20


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One recurrent layer.  gates: 3 for a GRU (reset, update, new, as in PyTorch), 1 for a plain RNN."""

    hidden: Floats
    """[units, gates * units], multiplied from the right of the state."""
    hidden_bias: Floats
    """[gates * units]; a GRU resets the product *and* this bias of its third gate."""
    input: Floats | None
    """[input_dim, gates * units]; None in the first layer of a one-hot model, whose table holds it."""
    input_bias: Floats
    """[gates * units]."""

    @property
    def units(self) -> int:
        return int(self.hidden.shape[0])


@dataclass(frozen=True, slots=True)
class NetworkWeights:
    """A recurrent next-item model: item table -> layers -> dot product with every item."""

    cell: Literal["gru", "rnn"]
    item_table: Floats
    """[n_items, input_dim]; one-hot models: [n_items, gates * units] of the first layer."""
    layers: tuple[LayerWeights, ...]
    output_matrix: Floats
    """[n_items, units of the last layer]."""
    output_bias: Floats
    """[n_items]."""

    @property
    def n_items(self) -> int:
        return int(self.output_matrix.shape[0])

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """Hidden state of each layer, stored in half precision."""
        return tuple(
            StateTensor(name=f"hidden_{number}", shape=(layer.units,), dtype="float16")
            for number, layer in enumerate(self.layers)
        )


def block_size(n_items: int) -> int:
    """Items per block of the two-stage top-K: as many blocks to look at as items in the best blocks."""
    ideal = (n_items / _USUAL_K) ** 0.5
    return min(_BLOCK_SIZES, key=lambda size: abs(np.log(size / ideal)))


def step_graph(weights: NetworkWeights) -> onnx.ModelProto:
    """`item` int64 [batch] and each state -> `next_<state>`; see `stream_app.core.manifest`.

    The state's rounding to half precision is part of the step; the next layer sees it unrounded.
    """
    graph = GraphBuilder()
    signal = graph.node("Gather", graph.constant("item_table", weights.item_table), "item")
    outputs = []
    for number, (layer, tensor) in enumerate(zip(weights.layers, weights.state, strict=True)):
        before = graph.node("Cast", tensor.name, to=TensorProto.FLOAT)
        prefix = f"layer_{number}_"
        from_input = _product(graph, signal, layer.input, layer.input_bias, prefix + "input")
        from_state = _product(graph, before, layer.hidden, layer.hidden_bias, prefix + "hidden")
        cell = _gru if weights.cell == "gru" else _rnn
        after = cell(graph, from_input, from_state, before)
        stored = graph.node("Cast", after, output=f"next_{tensor.name}", to=TensorProto.FLOAT16)
        outputs.append(value(stored, TensorProto.FLOAT16, ["batch", layer.units]))
        signal = after
    inputs = [value("item", TensorProto.INT64, ["batch"]), *state_inputs(weights.state)]
    return graph.model("step", inputs, outputs)


def score_graph(weights: NetworkWeights, *, block: int | None = None) -> onnx.ModelProto:
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
    last = weights.state[-1]
    query = graph.node("Cast", last.name, to=TensorProto.FLOAT)  # [batch, units]
    flat = _product(graph, query, matrix, bias, "output")  # [batch, n_blocks * size]
    blocks = graph.reshape(flat, (0, n_blocks, size))
    maxima = graph.node("ReduceMax", blocks, graph.integers("last_axis", (2,)), keepdims=0)

    n_chosen = graph.node("Min", "k", graph.integers("n_blocks", (n_blocks,)))
    _, unordered = graph.nodes("TopK", maxima, n_chosen, n_outputs=2, axis=1, sorted=0)
    # In the order of their rows, so that the second stage, too, meets lower items first.
    chosen, _ = graph.nodes("TopK", unordered, n_chosen, n_outputs=2, axis=1, largest=0, sorted=1)
    at = graph.node("Unsqueeze", chosen, graph.integers("last_axis"))
    candidates = graph.reshape(
        graph.node("GatherND", blocks, at, batch_dims=1), (0, -1)
    )  # [batch, n_chosen * size]

    _, position = graph.nodes(
        "TopK", candidates, "k", n_outputs=2, outputs=["scores", None], axis=1, sorted=1
    )
    size_name = graph.integers("block_size", (size,))
    block_of = graph.node("GatherElements", chosen, graph.node("Div", position, size_name), axis=1)
    within = graph.node("Mod", position, size_name)
    items = graph.node("Mul", block_of, size_name)
    graph.node("Add", items, within, output="items")
    return score_model(graph, weights)


def _gru(graph: GraphBuilder, from_input: str, from_state: str, before: str) -> str:
    """h' = n + z * (h - n), n = tanh(x_n + r * s_n)  (Cho et al. 2014, PyTorch's placing of r)."""
    x_reset, x_update, x_new = graph.nodes("Split", from_input, n_outputs=3, axis=1, num_outputs=3)
    s_reset, s_update, s_new = graph.nodes("Split", from_state, n_outputs=3, axis=1, num_outputs=3)
    reset = graph.node("Sigmoid", graph.node("Add", x_reset, s_reset))
    update = graph.node("Sigmoid", graph.node("Add", x_update, s_update))
    new = graph.node("Tanh", graph.node("Add", x_new, graph.node("Mul", reset, s_new)))
    return graph.node("Add", new, graph.node("Mul", update, graph.node("Sub", before, new)))


def _rnn(graph: GraphBuilder, from_input: str, from_state: str, before: str) -> str:  # noqa: ARG001 - one signature for every cell
    """h' = tanh(x + s)  (Elman 1990)."""
    return graph.node("Tanh", graph.node("Add", from_input, from_state))


def _product(
    graph: GraphBuilder, signal: str, matrix: Floats | None, bias: Floats, name: str
) -> str:
    if matrix is not None:
        signal = graph.node("MatMul", signal, graph.constant(f"{name}_weights", matrix))
    return graph.node("Add", signal, graph.constant(f"{name}_bias", bias))


def state_inputs(state: Sequence[StateTensor]) -> list[onnx.ValueInfoProto]:
    return [value(t.name, TensorProto.FLOAT16, ["batch", *t.shape]) for t in state]


def score_model(graph: GraphBuilder, weights: NetworkWeights) -> onnx.ModelProto:
    """The scoring graph whose nodes give `scores` and `items`."""
    return graph.model(
        "score",
        [*state_inputs(weights.state), value("k", TensorProto.INT64, [1])],
        [
            value("scores", TensorProto.FLOAT, ["batch", "n"]),
            value("items", TensorProto.INT64, ["batch", "n"]),
        ],
    )
