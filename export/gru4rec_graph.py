"""GRU4Rec's own nodes: recurrent layers in the step, the last one's state as the query."""

from dataclasses import dataclass
from typing import Literal

from onnx import TensorProto

from export.graph_builder import GraphBuilder
from export.graphs import Floats, product
from stream_app.core.manifest import StateTensor


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
class GRU4RecWeights:
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
    def query_square(self) -> float:
        """.25 to .75 in trained models."""
        return 0.5

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """Hidden state of each layer, stored in half precision."""
        return tuple(
            StateTensor(name=f"hidden_{number}", shape=(layer.units,), dtype="float16")
            for number, layer in enumerate(self.layers)
        )

    def step(self, graph: GraphBuilder) -> list[str]:
        """The next layer sees a layer's state unrounded."""
        signal = graph.node("Gather", graph.constant("item_table", self.item_table), "item")
        outputs = []
        for number, (layer, tensor) in enumerate(zip(self.layers, self.state, strict=True)):
            before = graph.node("Cast", tensor.name, to=TensorProto.FLOAT)
            prefix = f"layer_{number}_"
            from_input = product(graph, signal, layer.input, layer.input_bias, prefix + "input")
            from_state = product(graph, before, layer.hidden, layer.hidden_bias, prefix + "hidden")
            cell = gru_cell if self.cell == "gru" else _rnn_cell
            signal = cell(graph, from_input, from_state, before)
            outputs.append(signal)
        return outputs

    def query(self, graph: GraphBuilder) -> str:
        return graph.node("Cast", self.state[-1].name, to=TensorProto.FLOAT)

    def places(self, graph: GraphBuilder) -> str:  # noqa: ARG002 - see `export.graphs.Network`
        return "k"

    def listed(self, graph: GraphBuilder, scores: str, items: str) -> tuple[str, str]:  # noqa: ARG002
        return scores, items


def gru_cell(graph: GraphBuilder, from_input: str, from_state: str, before: str) -> str:
    """h' = n + z * (h - n), n = tanh(x_n + r * s_n)  (Cho et al. 2014, PyTorch's placing of r)."""
    x_reset, x_update, x_new = graph.nodes("Split", from_input, n_outputs=3, axis=1, num_outputs=3)
    s_reset, s_update, s_new = graph.nodes("Split", from_state, n_outputs=3, axis=1, num_outputs=3)
    reset = graph.node("Sigmoid", graph.node("Add", x_reset, s_reset))
    update = graph.node("Sigmoid", graph.node("Add", x_update, s_update))
    new = graph.node("Tanh", graph.node("Add", x_new, graph.node("Mul", reset, s_new)))
    return graph.node("Add", new, graph.node("Mul", update, graph.node("Sub", before, new)))


def _rnn_cell(graph: GraphBuilder, from_input: str, from_state: str, before: str) -> str:  # noqa: ARG001 - one signature for every cell
    """h' = tanh(x + s)  (Elman 1990)."""
    return graph.node("Tanh", graph.node("Add", from_input, from_state))
