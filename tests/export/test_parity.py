"""Every kind of network we train gives the same answers in torch and in ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from export import quantised_graphs, scoring
from export.gru4rec_graph import GRU4RecWeights
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import BundleError
from tests.bundles import make_bundle

torch = pytest.importorskip("torch", reason="needs the training environment")
pytestmark = pytest.mark.torch

from export.parity import RECALL_MIN, SCORE_TOLERANCE, check_parity  # noqa: E402 - only where torch is
from export.to_onnx import network_weights  # noqa: E402
from models.config import GRU4RecConfig  # noqa: E402
from models.gru4rec import GRU4Rec  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

N_ITEMS = 70


def network(**fields: Any) -> GRU4Rec:
    """Weights as large as trained ones, so that gates saturate now and then."""
    model = GRU4Rec(GRU4RecConfig(**{"units": 24, **fields}), N_ITEMS)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    return model.eval()


def bundle(parent: Path, weights: GRU4RecWeights) -> OnnxScorer:
    return OnnxScorer.load(make_bundle(parent, weights.n_items, weights=weights))


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("embedding", ["constrained", "separate", "one-hot"])
def test_torch_and_the_bundle_agree(
    tmp_path: Path,
    cell: Literal["gru", "rnn"],
    layers: int,
    embedding: Literal["constrained", "separate", "one-hot"],
) -> None:
    model = network(cell=cell, layers=layers, embedding=embedding)
    scorer = bundle(tmp_path, network_weights(model))
    assert scorer.manifest.state == model.state_tensors()
    report = check_parity(model, scorer)
    assert report.step > 0, "a difference of exactly nothing means that torch was not asked"
    assert report.lists == 6 * (1 + 2 + 7 + 64 + 257)


def transposed_gates(weights: GRU4RecWeights) -> GRU4RecWeights:
    (layer,) = weights.layers
    order = np.r_[24:48, 0:24, 48:72]  # reset and update exchanged
    return replace(weights, layers=(replace(layer, hidden=layer.hidden[:, order]),))


def without_bias(weights: GRU4RecWeights) -> GRU4RecWeights:
    return replace(weights, output_bias=weights.output_bias * 0)


def two_items_exchanged(weights: GRU4RecWeights) -> GRU4RecWeights:
    order = [1, 0, *range(2, N_ITEMS)]
    return replace(
        weights,
        output_matrix=weights.output_matrix[order],
        output_bias=weights.output_bias[order],
    )


def slightly_other_input(weights: GRU4RecWeights) -> GRU4RecWeights:
    return replace(weights, item_table=weights.item_table * np.float32(1.02))


@pytest.mark.parametrize(
    "damage", [transposed_gates, without_bias, two_items_exchanged, slightly_other_input]
)
def test_a_wrong_export_is_noticed(
    tmp_path: Path, damage: Callable[[GRU4RecWeights], GRU4RecWeights]
) -> None:
    model = network()
    scorer = bundle(tmp_path, damage(network_weights(model)))
    with pytest.raises(BundleError, match="torch and ONNX Runtime disagree"):
        check_parity(model, scorer)


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "EXACT_UP_TO", 10)


@pytest.mark.usefixtures("quantised")
@pytest.mark.parametrize("layers", [1, 2])
def test_torch_and_a_quantised_bundle_agree_and_what_is_missing_is_reported(
    tmp_path: Path, layers: int
) -> None:
    model = network(layers=layers)
    scorer = bundle(tmp_path, network_weights(model))
    assert scorer.manifest.scoring.method == "int8"
    report = check_parity(model, scorer)
    assert RECALL_MIN["int8"] <= report.recall <= 1
    assert report.score < SCORE_TOLERANCE


@pytest.mark.usefixtures("quantised")
@pytest.mark.parametrize("damage", [without_bias, two_items_exchanged])
def test_a_wrong_quantised_export_is_noticed(
    tmp_path: Path, damage: Callable[[GRU4RecWeights], GRU4RecWeights]
) -> None:
    model = network()
    scorer = bundle(tmp_path, damage(network_weights(model)))
    with pytest.raises(BundleError, match="torch and ONNX Runtime disagree"):
        check_parity(model, scorer)


@pytest.mark.usefixtures("quantised")
def test_a_graph_that_finds_too_few_of_the_best_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right scores of the wrong items: an integer matrix of another model's."""
    model = network()
    build = quantised_graphs.quantised_items

    def muddled(matrix: Any, bias: Any, *, pad_to: int) -> Any:
        made = build(matrix, bias, pad_to=pad_to)
        return replace(made, columns=np.roll(made.columns, 5, axis=1))

    monkeypatch.setattr(quantised_graphs, "quantised_items", muddled)
    monkeypatch.setattr(scoring, "RECALL_MIN", 0.0)
    monkeypatch.setattr("export.quantised_graphs._SMALL_BLOCK", 1)
    scorer = bundle(tmp_path, network_weights(model))
    with pytest.raises(BundleError, match="of torch's best 20 items are listed"):
        check_parity(model, scorer)


def test_ties_are_no_disagreement(tmp_path: Path) -> None:
    """All items score alike: any order of them is right."""
    model = network()
    with torch.no_grad():
        model.item_vectors.copy_(model.item_vectors[:1].expand(N_ITEMS, -1))
        model.item_bias.zero_()
    check_parity(model, bundle(tmp_path, network_weights(model)), batches=(3,))
