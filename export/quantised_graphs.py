"""Scoring graphs that look at every item in 8 bits, and at the best of them again in float32.

Integer scores only choose candidates; the scores that come out are float32 products with the
unrounded weights.  So a list may lack an item of the exact list, but ranks and scores none wrongly.
How much it lacks is measured whenever a model is exported (`export.scoring`).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph_builder import GraphBuilder
from export.graphs import NEVER, Floats, Network, score_model

BLOCK: Final = 16
"""Neighbouring items whose best integer score stands for all of them in the first choice."""
_SMALL_BLOCK: Final = 8
_SMALL_UP_TO: Final = 20_000
SUPER_BLOCK: Final = 32
"""Neighbouring blocks whose best stands for them, where choosing among all blocks would take long."""
CHUNK: Final = SUPER_BLOCK * BLOCK * 16
"""Columns multiplied at once where the scores are not kept: they stay in the core's own cache."""

_STEPS: Final = 127
"""States and weights are rounded to 127ths, of 1 and of the largest weight."""
_ZERO_POINT: Final = 128
_BIAS_ROWS_MAX: Final = 24
"""Where even so many rows cannot carry the bias, weights are rounded more coarsely."""
_LOWEST: Final = np.iinfo(np.int32).min


def quantised_score_graph(weights: Network, *, block: int | None = None) -> onnx.ModelProto:
    """Each state and `k` int64 [1] -> `scores`, `items` [batch, k]; k at most n_items.

    Chosen are first the blocks of neighbouring items with the best integer scores, an eighth more than
    `k` and three, then as many of the best integer scores within these; their float32 scores decide.

    Items with equal weights have equal integer scores, and at every choice the lower index wins
    among equals: equals are listed as in the exact graph.
    """
    size = block or block_size(weights.n_items)
    items = quantised_items(weights.output_matrix, weights.output_bias, pad_to=size)
    n_blocks = items.n_columns // size
    graph = GraphBuilder()
    query, rounded = queries(graph, weights, items)
    k = weights.places(graph)
    wanted = _more_than(graph, k)
    # Column `i * n_blocks + b` is item `i` of block `b`: the maximum of vectors of n_blocks numbers
    # takes half the time of n_blocks maxima of a few neighbours each.
    place = groups_of(n_blocks, size).T.ravel()
    scores = integer_scores(graph, rounded, items.columns[:, place], "columns")
    maxima = maxima_of(graph, graph.reshape(scores, (0, size, n_blocks)), axis=1)
    chosen = best_of(graph, maxima, at_most(graph, wanted, n_blocks))

    columns = members_of(graph, chosen, groups_of(size, n_blocks).T, "columns_of_blocks")
    candidates = graph.node("GatherElements", scores, columns, axis=1)
    # A padded column may be taken for a candidate, but leaves as many real ones as were wanted.
    room = graph.node("Add", wanted, graph.integers("padding", (items.n_columns - items.n_items,)))
    best = best_of(graph, candidates, at_most(graph, room, items.n_columns))
    listed = graph.node(
        "GatherElements",
        members_of(graph, chosen, groups_of(n_blocks, size), "blocks"),
        best,
        axis=1,
    )
    rows = graph.node("Gather", graph.constant("item_rows", items.rows), listed, axis=0)
    return score_model(graph, weights, *_rank(graph, rows, query, listed, k))


def chunked_score_graph(weights: Network) -> onnx.ModelProto:
    """The same for large catalogues, where writing a row's integer scores down would take the time.

    The columns are multiplied in chunks of which only the maxima of blocks are kept, and *all* items
    of the chosen blocks are scored in float32.
    """
    items = quantised_items(weights.output_matrix, weights.output_bias, pad_to=BLOCK * SUPER_BLOCK)
    n_blocks = items.n_columns // BLOCK
    graph = GraphBuilder()
    query, rounded = queries(graph, weights, items)
    k = weights.places(graph)
    wanted = _more_than(graph, k)
    parts = [
        _chunk_maxima(graph, rounded, items, first) for first in range(0, items.n_columns, CHUNK)
    ]
    maxima = graph.node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]

    n_super_blocks = n_blocks // SUPER_BLOCK
    grouped = graph.reshape(maxima, (0, n_super_blocks, SUPER_BLOCK))
    best = best_of(graph, maxima_of(graph, grouped, axis=2), at_most(graph, wanted, n_super_blocks))
    candidates = members_of(graph, best, groups_of(n_super_blocks, SUPER_BLOCK), "super_blocks")
    values = graph.node("GatherElements", maxima, candidates, axis=1)
    at = best_of(graph, values, at_most(graph, wanted, -(-items.n_items // BLOCK)))
    chosen = graph.node("GatherElements", candidates, at, axis=1)

    of_blocks = graph.constant("block_rows", items.rows.reshape(n_blocks, -1))
    rows = graph.reshape(
        graph.node("Gather", of_blocks, chosen, axis=0), (0, -1, items.rows.shape[1])
    )
    listed = members_of(graph, chosen, groups_of(n_blocks, BLOCK), "blocks")
    return score_model(graph, weights, *_rank(graph, rows, query, listed, k))


@dataclass(frozen=True, slots=True)
class QuantisedItems:
    """The items as constants of a graph, padded with columns that nobody may see.

    An integer score is the sum of rounded state times rounded weight.  The bias comes out of the same
    product: it is shared out among rows below the weights, where the state is 1.
    """

    columns: NDArray[np.int8]
    """[units + extra, n_columns]."""
    rows: Floats
    """[n_columns, units + extra]: weights, bias, zeros.  Padding scores `NEVER`."""
    n_items: int

    @property
    def n_columns(self) -> int:
        return len(self.rows)


def quantised_items(matrix: Floats, bias: Floats, *, pad_to: int) -> QuantisedItems:
    """matrix: [n_items, units]; bias: [n_items]; columns are added up to a multiple of `pad_to`."""
    n_items, units = matrix.shape
    largest_bias = float(np.abs(bias).max())
    step = max(float(np.abs(matrix).max()), largest_bias / _BIAS_ROWS_MAX, 1e-30) / _STEPS
    extra = max(1, math.ceil(np.rint(largest_bias / step) / _STEPS))
    n_columns = n_items + -n_items % pad_to

    columns = np.zeros((units + extra, n_columns), dtype=np.int8)
    columns[:units, :n_items] = np.rint(matrix / step).T
    columns[units:, n_items:] = -_STEPS
    left = np.rint(bias / step)
    for row in columns[units:]:
        row[:n_items] = np.clip(left, -_STEPS, _STEPS)
        left -= row[:n_items]

    rows = np.zeros((n_columns, units + extra), dtype=np.float32)
    rows[:n_items, :units] = matrix
    rows[:, units] = NEVER
    rows[:n_items, units] = bias
    return QuantisedItems(columns=columns, rows=rows, n_items=n_items)


def block_size(n_items: int) -> int:
    return _SMALL_BLOCK if n_items <= _SMALL_UP_TO else BLOCK


def queries(graph: GraphBuilder, weights: Network, items: QuantisedItems) -> tuple[str, str]:
    """The query with ones below it, [batch, units + extra], in float32 and rounded to uint8.

    Elementwise, with constant steps: a dynamic quantisation would measure the whole batch, and a row
    would depend on its neighbours.
    """
    extra = items.rows.shape[1] - weights.output_matrix.shape[1]
    one = graph.constant("one", np.array(1, dtype=np.float32))
    query = graph.node("Pad", weights.query(graph), graph.integers("extra", (0, 0, 0, extra)), one)
    step = graph.constant("query_step", np.array(1 / _STEPS, dtype=np.float32))
    return query, graph.node("QuantizeLinear", query, step, _zero_point(graph))


def _zero_point(graph: GraphBuilder) -> str:
    """Unsigned times signed is the product that processors have instructions for."""
    return graph.constant("zero_point", np.array(_ZERO_POINT, dtype=np.uint8))


def integer_scores(graph: GraphBuilder, rounded: str, columns: NDArray[np.int8], name: str) -> str:
    """int32 [batch, n]."""
    return graph.node("MatMulInteger", rounded, graph.constant(name, columns), _zero_point(graph))


def _chunk_maxima(graph: GraphBuilder, rounded: str, items: QuantisedItems, first: int) -> str:
    """Best integer score of each block from column `first` on, int32 [batch, n]."""
    columns = items.columns[:, first : first + CHUNK]
    n_blocks = columns.shape[1] // BLOCK
    place = groups_of(n_blocks, BLOCK).T.ravel()
    scores = integer_scores(graph, rounded, columns[:, place], f"columns_{first}")
    maxima = maxima_of(graph, graph.reshape(scores, (0, BLOCK, n_blocks)), axis=1)
    is_real = np.arange(first, first + columns.shape[1], BLOCK) < items.n_items
    if is_real.all():
        return maxima
    # A block of nothing but padding must not be chosen before a real one, whatever that scores.
    highest = np.where(is_real, np.iinfo(np.int32).max, _LOWEST).astype(np.int32)
    return graph.node("Min", maxima, graph.constant("highest", highest))


def maxima_of(graph: GraphBuilder, grouped: str, *, axis: int) -> str:
    """Over one of the two last axes of three."""
    return graph.node("ReduceMax", grouped, graph.integers(f"axis_{axis}", (axis,)), keepdims=0)


def _more_than(graph: GraphBuilder, k: str) -> str:
    """Candidates for `k` places, 25 for 20: rounding rarely moves an item by more than a place or two."""
    eighth = graph.node("Div", k, graph.integers("eight", (8,)))
    spare = graph.node("Add", eighth, graph.integers("three", (3,)))
    return graph.node("Add", k, spare)


def at_most(graph: GraphBuilder, number: str, most: int) -> str:
    return graph.node("Min", number, graph.integers(f"number_{most}", (most,)))


def best_of(graph: GraphBuilder, scores: str, n: str) -> str:
    """Positions of the `n` best, the lower ones among equals, in ascending order: int64 [batch, n]."""
    _, unordered = graph.nodes("TopK", scores, n, n_outputs=2, axis=1, sorted=0)
    ascending, _ = graph.nodes("TopK", unordered, n, n_outputs=2, axis=1, largest=0, sorted=1)
    return ascending


def groups_of(n_groups: int, size: int) -> NDArray[np.int64]:
    """The numbers of each group's members, [n_groups, size]."""
    return np.arange(n_groups * size).reshape(n_groups, size)


def members_of(graph: GraphBuilder, chosen: str, groups: NDArray[np.int64], name: str) -> str:
    """Numbers of all members of the chosen groups, int64 [batch, n_chosen * size].

    groups: constant, [n_groups, size].
    """
    return graph.reshape(
        graph.node("Gather", graph.constant(name, groups), chosen, axis=0), (0, -1)
    )


def _rank(graph: GraphBuilder, rows: str, query: str, listed: str, k: str) -> tuple[str, str]:
    """The best `k` of the candidates in float32: scores and items.

    rows: [batch, n, units + extra]; listed: item indexes, ascending, [batch, n].
    """
    column = graph.node("Unsqueeze", query, graph.integers("axis_2", (2,)))
    all_scores = graph.reshape(graph.node("MatMul", rows, column), (0, -1))
    scores, position = graph.nodes("TopK", all_scores, k, n_outputs=2, axis=1, sorted=1)
    return scores, graph.node("GatherElements", listed, position, axis=1)
