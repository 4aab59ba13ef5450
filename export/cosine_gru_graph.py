"""The cosine GRU's own nodes: see `models.cosine_gru` for the formulas."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from export.graph_builder import GraphBuilder
from export.graphs import NEVER, Floats, product, ranked
from export.gru4rec_graph import LayerWeights, gru_cell
from stream_app.core.manifest import StateTensor


@dataclass(frozen=True, slots=True)
class CosineGRUWeights:
    """Matrices are multiplied from the right of a row."""

    item_table: Floats
    """[n_items, units]: what the GRU and the attention read."""
    directions: Floats
    """[n_items, units]: the same at one length, the temperature in it."""
    gru: LayerWeights
    from_hidden: Floats
    """[units, units]."""
    from_last: Floats
    """[1]."""
    from_history: Floats
    """[1]."""
    attention_hidden: Floats
    """[units, units]."""
    attention_bias: Floats
    """[units]."""
    attention_item: Floats
    """[units, units]."""
    attention_out: Floats
    """[units]."""
    lag_weight: Floats
    """[lags]: exp of the lag's bias."""
    repeat_lag: Floats
    """[lags]."""
    repeat_hidden: Floats
    """[units]."""
    query_length: float

    @property
    def output_matrix(self) -> Floats:
        return self.directions

    @property
    def output_bias(self) -> Floats:
        return np.zeros(self.n_items, dtype=np.float32)

    @property
    def n_items(self) -> int:
        return len(self.item_table)

    @property
    def units(self) -> int:
        return int(self.item_table.shape[1])

    @property
    def lags(self) -> int:
        return len(self.lag_weight)

    @property
    def query_square(self) -> float:
        return self.query_length**2 / self.units

    @property
    def state(self) -> tuple[StateTensor, ...]:
        return (
            StateTensor(name="hidden", shape=(self.units,), dtype="float16"),
            StateTensor(name="recent", shape=(self.lags,), dtype="float32"),
        )

    def step(self, graph: GraphBuilder) -> list[str]:
        """The GRU's step, and `recent` moved on by a click; an earlier click on the same item is blanked."""
        signal = graph.node("Gather", self._table(graph), "item")
        before = graph.node("Cast", "hidden", to=TensorProto.FLOAT)
        from_input = product(graph, signal, self.gru.input, self.gru.input_bias, "input")
        from_state = product(graph, before, self.gru.hidden, self.gru.hidden_bias, "hidden")
        after = gru_cell(graph, from_input, from_state, before)

        one = graph.integers("axis_1", (1,))
        number = graph.node("Cast", graph.node("Add", "item", one), to=TensorProto.FLOAT)
        clicked = graph.node("Unsqueeze", number, one)  # [batch, 1]
        again = graph.node("Equal", "recent", clicked)
        earlier = graph.node("Where", again, self._floats(graph, "nothing", 0.0), "recent")
        kept = graph.node(
            "Slice", earlier, graph.integers("first", (0,)), graph.integers("last", (-1,)), one
        )
        return [after, graph.node("Concat", clicked, kept, axis=1)]

    def query(self, graph: GraphBuilder) -> str:
        hidden = self._hidden(graph)
        vectors = graph.node(
            "Gather", self._table(graph), self._recent(graph)
        )  # [batch, lags, units]
        asked = product(graph, hidden, self.attention_hidden, self.attention_bias, "asked")
        asked = graph.node("Unsqueeze", asked, graph.integers("axis_1", (1,)))
        keys = self._times(graph, vectors, "attention_item", self.attention_item)
        gates = graph.node("Sigmoid", graph.node("Add", asked, keys))
        weights = self._times(graph, gates, "attention_out", self.attention_out[:, None])
        by_lag = graph.constant("lag_weight", self.lag_weight[:, None])
        known = graph.node("Unsqueeze", self._known(graph), graph.integers("axis_2", (2,)))
        weights = graph.node("Mul", graph.node("Mul", weights, by_lag), known)
        history = graph.node(
            "ReduceSum",
            graph.node("Mul", weights, vectors),
            graph.integers("axis_1", (1,)),
            keepdims=0,
        )
        newest = graph.node("Gather", vectors, graph.integers("zero", (0,)), axis=1)
        newest = graph.node("Squeeze", newest, graph.integers("axis_1", (1,)))
        parts = (
            self._times(graph, hidden, "from_hidden", self.from_hidden),
            graph.node("Mul", newest, graph.constant("from_last", self.from_last)),
            graph.node("Mul", history, graph.constant("from_history", self.from_history)),
        )
        query = graph.node("Add", graph.node("Add", *parts[:2]), parts[2])
        length = graph.node("ReduceL2", query, graph.integers("axis_1", (1,)), keepdims=1)
        length = graph.node("Max", length, self._floats(graph, "shortest", 1e-12))
        unit = graph.node("Div", query, length)
        return graph.node("Mul", unit, self._floats(graph, "query_length", self.query_length))

    def places(self, graph: GraphBuilder) -> str:
        """Own items may fall off the list, so many more are looked at."""
        more = graph.node("Add", "k", graph.integers("lags", (self.lags,)))
        return graph.node("Min", more, graph.integers("all_items", (self.n_items,)))

    def listed(self, graph: GraphBuilder, scores: str, items: str) -> tuple[str, str]:
        """A session's own items leave the list and come back with what repeats get."""
        axis = graph.integers("axis_2", (2,))
        known, recent = self._known(graph), self._recent(graph)
        own = graph.node("Gather", graph.constant("own_directions", self.directions), recent)
        # The nodes of the query a second time: ONNX Runtime merges equal ones.
        query = graph.node("Unsqueeze", self.query(graph), axis)
        own_scores = graph.reshape(graph.node("MatMul", own, query), (0, -1))
        bonus = graph.node(
            "Add",
            self._times(graph, self._hidden(graph), "repeat_hidden", self.repeat_hidden[:, None]),
            graph.constant("repeat_lag", self.repeat_lag),
        )
        never = self._floats(graph, "never", float(NEVER))
        is_known = graph.node("Cast", known, to=TensorProto.BOOL)
        own_scores = graph.node("Where", is_known, graph.node("Add", own_scores, bonus), never)

        number = graph.node("Cast", "recent", to=TensorProto.INT64)
        own_items = graph.node("Sub", number, graph.integers("axis_1", (1,)))  # -1: none
        pairs = graph.node(
            "Equal",
            graph.node("Unsqueeze", items, axis),
            graph.node("Unsqueeze", own_items, graph.integers("axis_1", (1,))),
        )  # [batch, n, lags]
        hits = graph.node(
            "ReduceMax", graph.node("Cast", pairs, to=TensorProto.FLOAT), axis, keepdims=0
        )
        is_own = graph.node("Cast", hits, to=TensorProto.BOOL)
        others = graph.node("Where", is_own, never, scores)
        return ranked(
            graph,
            graph.node("Concat", others, own_scores, axis=1),
            graph.node("Concat", items, own_items, axis=1),
            "k",
        )

    def _hidden(self, graph: GraphBuilder) -> str:
        return graph.node("Cast", "hidden", to=TensorProto.FLOAT)

    def _recent(self, graph: GraphBuilder) -> str:
        """Indexes of the last items, int64 [batch, lags]; of none, the first item's."""
        number = graph.node("Cast", "recent", to=TensorProto.INT64)
        index = graph.node("Sub", number, graph.integers("axis_1", (1,)))
        return graph.node("Max", index, graph.integers("zero", (0,)))

    def _known(self, graph: GraphBuilder) -> str:
        """1 where there is an item at the lag, float32 [batch, lags]."""
        return graph.node("Min", "recent", self._floats(graph, "one_float", 1.0))

    def _table(self, graph: GraphBuilder) -> str:
        return graph.constant("item_table", self.item_table)

    @staticmethod
    def _floats(graph: GraphBuilder, name: str, number: float) -> str:
        return graph.constant(name, np.array(number, dtype=np.float32))

    @staticmethod
    def _times(graph: GraphBuilder, signal: str, name: str, matrix: Floats) -> str:
        return graph.node("MatMul", signal, graph.constant(name, matrix))
