"""A scoring graph that looks at the items of the most promising clusters only: fast, and approximate."""

from typing import Final

import numpy as np
import onnx

from export.clusters import blocks_of_alike
from export.graph_builder import GraphBuilder
from export.graphs import NEVER, Floats, Network, ranked, score_model
from export.quantised_graphs import (
    at_most,
    best_of,
    groups_of,
    integer_scores,
    maxima_of,
    members_of,
    quantised_items,
    queries,
)

CLUSTER: Final = 16
"""Items: few enough that their mean tells what they score, enough that the means are quickly looked at."""
GROUP: Final = 16
"""Clusters whose best stands for them in the first choice."""
_CLUSTERS_PER_PLACE: Final = 4
_CLUSTERS_MORE: Final = GROUP
"""96 clusters for 20 places; and always `k` besides those that are padding."""
_SPREADS: Final = 2.0
"""The best of sixteen scores so many standard deviations above their mean, about (1.8 if normal)."""


def clustered_score_graph(weights: Network) -> onnx.ModelProto:
    """Each state and `k` int64 [1] -> `scores`, `items` [batch, k]; k at most n_items.

    For each cluster of 16 like items, what its best may score (the mean's score and two deviations) is
    computed in integers; the items of the best clusters are scored in float32.  An inverted file (Sivic & Zisserman 2003) with many small lists of equal length.
    What is listed has its exact score; what is missing has to be measured, model by model.
    """
    vectors = np.column_stack([weights.output_matrix, weights.output_bias])
    order = blocks_of_alike(vectors, CLUSTER)
    means, hopes = _outlook(vectors[order], weights.query_square)
    columns_of = quantised_items(means, hopes, pad_to=GROUP)
    n_clusters = columns_of.n_columns
    n_groups = n_clusters // GROUP

    graph = GraphBuilder()
    query, rounded = queries(graph, weights, columns_of)
    k = weights.places(graph)
    by_place = graph.node("Mul", k, graph.integers("per_place", (_CLUSTERS_PER_PLACE,)))
    wanted = graph.node("Add", by_place, graph.integers("more", (_CLUSTERS_MORE,)))
    place = groups_of(n_groups, GROUP).T.ravel()
    scores = integer_scores(graph, rounded, columns_of.columns[:, place], "means")
    maxima = maxima_of(graph, graph.reshape(scores, (0, GROUP, n_groups)), axis=1)
    groups = best_of(graph, maxima, at_most(graph, wanted, n_groups))
    columns = members_of(graph, groups, groups_of(GROUP, n_groups).T, "columns_of_groups")
    values = graph.node("GatherElements", scores, columns, axis=1)
    at = best_of(graph, values, at_most(graph, wanted, n_clusters))
    numbers = members_of(graph, groups, groups_of(n_groups, GROUP), "clusters_of_groups")
    clusters = graph.node("GatherElements", numbers, at, axis=1)

    width, units = columns_of.rows.shape[1], weights.output_matrix.shape[1]
    rows = np.zeros((n_clusters * CLUSTER, width), dtype=np.float32)
    rows[:, units] = NEVER
    rows[: len(order), : units + 1] = vectors[order]
    table = graph.constant("cluster_rows", rows.reshape(n_clusters, -1))
    near = graph.reshape(graph.node("Gather", table, clusters, axis=0), (0, -1, width))
    items = np.arange(len(rows))  # those beyond the catalogue are padding
    items[: len(order)] = order
    listed = members_of(graph, clusters, items.reshape(n_clusters, -1), "items_of_clusters")
    return score_model(graph, weights, *_rank(graph, near, query, listed, k))


def _outlook(ordered: Floats, query_square: float) -> tuple[Floats, Floats]:
    """Of each cluster, the last of which may be smaller: mean weights [n, units], and a bias [n].

    ordered: weights and bias, [n_items, units + 1].  The bias is the mean one and the deviations by which the
    best item is likely to be above the mean.
    """
    starts = np.arange(0, len(ordered), CLUSTER)
    sizes = np.diff(np.append(starts, len(ordered)))[:, None]
    means = np.add.reduceat(ordered, starts, axis=0) / sizes
    variances = np.maximum(np.add.reduceat(ordered**2, starts, axis=0) / sizes - means**2, 0)
    spread = np.sqrt(variances[:, :-1].sum(axis=1) * query_square + variances[:, -1])
    hopes = means[:, -1] + _SPREADS * spread
    return means[:, :-1].astype(np.float32), hopes.astype(np.float32)


def _rank(graph: GraphBuilder, rows: str, query: str, listed: str, k: str) -> tuple[str, str]:
    """The best `k` of the candidates, equals in the order of their item index: scores, items.

    rows: [batch, n, units + extra]; listed: item indexes in any order, [batch, n].
    """
    column = graph.node("Unsqueeze", query, graph.integers("axis_2", (2,)))
    all_scores = graph.reshape(graph.node("MatMul", rows, column), (0, -1))
    best, position = graph.nodes("TopK", all_scores, k, n_outputs=2, axis=1, sorted=0)
    unordered = graph.node("GatherElements", listed, position, axis=1)
    return ranked(graph, best, unordered, k)
