"""The same clicks through torch and through the bundle: what training measured is what serving does."""

from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models.network import SessionModel
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import BundleError
from stream_app.core.manifest import CHUNKED, CLUSTERED, EXACT, QUANTISED
from stream_app.core.ports import StateRows

BATCHES: Final = (1, 2, 7, 64, 257)
CHAIN_STEPS: Final = 30
TOP_K: Final = 20

STEP_TOLERANCE: Final = 2e-3
"""Largest difference of a state after one step from equal states.  States lie within -1..1 and are
stored in half precision (spacing 2**-11 = 0.0005 below 1): the two libraries' tanh and sigmoid differ
in the last bits of float32, which now and then tips the rounding; never by four spacings."""
CHAIN_TOLERANCE: Final = 2e-2
"""The same after up to 30 steps, each side going on from its own states: the tips above, carried on.
A network may be chaotic, a plain RNN easily is, and then any tip grows without bound: so torch against
itself, with such tips put in by hand, may differ by more, and then that much is allowed."""
_TIPPED_SHARE: Final = 0.02
"""Of the numbers of a state that get a tip by hand, per step.  About 1 in 100 was seen."""
SCORE_TOLERANCE: Final = 1e-4
"""Largest difference of a score from equal states, relative to the row's largest score in size."""
RECALL_MIN: Final = {EXACT.method: 1.0, QUANTISED: 0.95, CHUNKED: 0.95, CLUSTERED: 0.8}
"""Share of torch's best 20 that must be listed, by `Scoring.method`.  The states here come of random clicks,
which suit no cluster and crowd the scores of 8-bit columns (.988 was seen of a cosine GRU on 11,640 items);
`export.scoring` demands more, on the states of sessions.  A wrong graph lists next to nothing right."""


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Largest differences found, over all batch sizes.  Kept in the manifest."""

    step: float
    chain: float
    torch_chain: float
    """Torch against itself, its states tipped now and then by one spacing."""
    score: float
    recall: float
    """Share of torch's best 20 that were listed; items that tie within the score tolerance are as good."""
    lists: int
    """Lists of the best 20 compared."""


def check_parity(
    model: SessionModel, scorer: OnnxScorer, *, batches: tuple[int, ...] = BATCHES, seed: int = 0
) -> ParityReport:
    """Compare steps, chains of 30 steps, scores and lists for several batch sizes.

    The scorer runs as in serving: bytes in, bytes out.  Raises `BundleError` naming what is beyond its
    tolerance; such a bundle must not be published.
    """
    rng = np.random.default_rng(seed)
    worst = ParityReport(step=0.0, chain=0.0, torch_chain=0.0, score=0.0, recall=1.0, lists=0)
    with torch.inference_mode():
        for batch in batches:
            clicks = rng.integers(0, model.n_items, (CHAIN_STEPS, batch))
            found = _compare(model, scorer, clicks, rng)
            worst = ParityReport(
                step=_larger(worst.step, found.step),
                chain=_larger(worst.chain, found.chain),
                torch_chain=_larger(worst.torch_chain, found.torch_chain),
                score=_larger(worst.score, found.score),
                recall=_mean(worst, found),
                lists=worst.lists + found.lists,
            )
    for name, difference, tolerance in (
        ("a step's state", worst.step, STEP_TOLERANCE),
        (
            f"the state after {CHAIN_STEPS} steps",
            worst.chain,
            max(CHAIN_TOLERANCE, 2 * worst.torch_chain),
        ),
        ("a score", worst.score, SCORE_TOLERANCE),
    ):
        if not difference <= tolerance:  # NaN is beyond any tolerance
            raise BundleError(
                f"torch and ONNX Runtime disagree: {name} differs by {difference:.2g}, "
                f"{tolerance:.2g} is allowed.  The export is wrong; report it with the checkpoint"
            )
    least = RECALL_MIN[scorer.manifest.scoring.method]
    if not worst.recall >= least:
        raise BundleError(
            f"torch and ONNX Runtime disagree: {worst.recall:.4g} of torch's best {TOP_K} items are "
            f"listed, at least {least:g} must be.  The export is wrong; report it with the checkpoint"
        )
    return worst


def _compare(
    model: SessionModel, scorer: OnnxScorer, clicks: NDArray[np.int64], rng: np.random.Generator
) -> ParityReport:
    """clicks: int64 [steps, batch]."""
    batch = clicks.shape[1]
    states = model.start_states(batch)
    own: StateRows = np.zeros((batch, scorer.state_size_bytes), dtype=np.uint8)
    tipped = states
    step = chain = torch_chain = score = recalls = 0.0
    lists = 0
    for number, items in enumerate(clicks):
        stepped = scorer.step(_rows(states), items)
        own = scorer.step(own, items)
        states = model.step(torch.from_numpy(items), *states)
        tipped = _tip(model.step(torch.from_numpy(items), *tipped), rng)
        step = _larger(step, _difference(_rows(states), stepped, scorer))
        chain = _larger(chain, _difference(_rows(states), own, scorer))
        torch_chain = _larger(torch_chain, _difference(_rows(states), _rows(tipped), scorer))
        if number % 10 in (0, 9):  # a list costs more than a step
            difference, recall = _lists_compared(model, scorer, states)
            score = _larger(score, difference)
            recalls += recall * batch
            lists += batch
    return ParityReport(
        step=step,
        chain=chain,
        torch_chain=torch_chain,
        score=score,
        recall=recalls / lists,
        lists=lists,
    )


def _lists_compared(
    model: SessionModel, scorer: OnnxScorer, states: tuple[torch.Tensor, ...]
) -> tuple[float, float]:
    """Largest relative difference of a listed item's score, and the share of torch's best that is listed.

    An item in the place of a better one counts as missing; one that ties with it does not.
    """
    scores = model.scores(*states).numpy()  # [batch, n_items]
    top, items = scorer.top_k(_rows(states), TOP_K)
    if any(len(set(row)) < len(row) for row in items.tolist()) or (np.diff(top, axis=1) > 0).any():
        return float("inf"), 0.0
    scale = np.abs(scores).max(axis=1, keepdims=True) + 1e-30
    difference = np.abs(np.take_along_axis(scores, items, axis=1) - top) / scale
    last = -np.sort(-scores, axis=1)[:, items.shape[1] - 1 : items.shape[1]]
    listed = top >= last - SCORE_TOLERANCE * scale
    return float(difference.max()), float(listed.mean())


def _mean(*reports: ParityReport) -> float:
    """Recall over all lists of the reports."""
    lists = sum(report.lists for report in reports)
    return sum(report.recall * report.lists for report in reports) / lists


def _tip(states: tuple[torch.Tensor, ...], rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """The states with a few of their numbers moved to the next one in half precision.

    Those stored in float32 stay: they may be numbers of items.
    """
    moved = []
    for state in states:
        if state.dtype != torch.float16:
            moved.append(state)
            continue
        array = state.numpy()
        chosen = rng.random(array.shape) < _TIPPED_SHARE
        upwards = np.nextafter(array, np.float16(2))
        moved.append(torch.from_numpy(np.where(chosen, upwards, array)))
    return tuple(moved)


def _rows(states: tuple[torch.Tensor, ...]) -> StateRows:
    parts = [np.ascontiguousarray(s.numpy()).reshape(len(s), -1).view(np.uint8) for s in states]
    return np.concatenate(parts, axis=1)


def _difference(a: StateRows, b: StateRows, scorer: OnnxScorer) -> float:
    worst = 0.0
    for left, right in zip(_tensors(a, scorer), _tensors(b, scorer), strict=True):
        worst = _larger(worst, float(np.abs(left - right).max(initial=0.0)))
    return worst


def _tensors(rows: StateRows, scorer: OnnxScorer) -> list[NDArray[Any]]:
    return [tensor.astype(np.float32) for tensor in scorer.tensors_of(rows).values()]


def _larger(a: float, b: float) -> float:
    """The larger one; NaN if either is."""
    return float(np.maximum(a, b))
