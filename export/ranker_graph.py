"""The second stage's network as an ONNX graph."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from export.graph_builder import GraphBuilder, value
from export.graphs import Floats

FARTHEST = 6.0
"""Standard deviations: what lies further out than this is taken for this far."""


@dataclass(frozen=True, slots=True)
class RankerWeights:
    """Two layers over standardised features, and a straight way past them."""

    mean: Floats
    """[n_features]."""
    deviation: Floats
    """[n_features], above 0."""
    hidden: Floats
    """[n_features, units]."""
    hidden_bias: Floats
    """[units]."""
    out: Floats
    """[units]."""
    skip: Floats
    """[n_features]: what a feature counts by itself."""


def ranker_graph(weights: RankerWeights) -> onnx.ModelProto:
    """`features` float32 [n, n_features] -> `scores` float32 [n]: out . relu(hidden x + bias) + skip . x."""
    graph = GraphBuilder()
    centred = graph.node("Sub", "features", graph.constant("mean", weights.mean))
    standard = graph.node("Div", centred, graph.constant("deviation", weights.deviation))
    bounds = [
        graph.constant(name, np.array(bound, dtype=np.float32).reshape(()))
        for name, bound in (("least", -FARTHEST), ("most", FARTHEST))
    ]
    clipped = graph.node("Min", graph.node("Max", standard, bounds[0]), bounds[1])
    hidden = graph.node("MatMul", clipped, graph.constant("hidden", weights.hidden))
    hidden = graph.node(
        "Relu", graph.node("Add", hidden, graph.constant("bias", weights.hidden_bias))
    )
    scores = graph.node("MatMul", hidden, graph.constant("out", weights.out[:, None]))
    by_itself = graph.node("MatMul", clipped, graph.constant("skip", weights.skip[:, None]))
    scores = graph.node("Add", scores, by_itself)
    graph.node("Squeeze", scores, graph.integers("axis_1", (1,)), output="scores")
    return graph.model(
        "ranker",
        [value("features", TensorProto.FLOAT, ["n", len(weights.mean)])],
        [value("scores", TensorProto.FLOAT, ["n"])],
    )
