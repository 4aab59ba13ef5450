# ruff: noqa: E402 - torch is looked for first
"""One training step against the whole model written down densely, with automatic differentiation."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models.config import GRU4RecConfig
from models.gru4rec import GRU4Rec
from models.gru4rec_step import TrainingStep
from models.optimiser import MomentumAdagrad

N_ITEMS, UNITS, BATCH = 11, 5, 4
INPUTS = torch.tensor([1, 2, 2])
TARGETS = torch.tensor([2, 5, 2])
NEGATIVES = torch.tensor([3, 5, 7, 7, 0])
SUPPORT = np.array([3, 1, 40, 7, 2, 9, 1, 5, 1, 1, 1])


def config(**fields: object) -> GRU4RecConfig:
    plain = GRU4RecConfig(
        units=UNITS, batch_size=BATCH, n_sample=5, learning_rate=0.05, dropout_hidden=0.0
    )
    return plain.changed(**fields)


def fresh_model(config: GRU4RecConfig) -> GRU4Rec:
    model = GRU4Rec(config, N_ITEMS)
    model.initialise(torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # biases too must have something to show
        for name, weight in model.named_parameters():
            if "bias" in name:
                weight.uniform_(-0.3, 0.3, generator=generator)
    return model


def torch_cell(
    config: GRU4RecConfig, weights: dict[str, "torch.Tensor"], layer: int
) -> tuple["torch.nn.Module", dict[str, "torch.Tensor"]]:
    """PyTorch's own cell of a layer, and our weights under its names."""
    kind = torch.nn.GRUCell if config.cell == "gru" else torch.nn.RNNCell
    input_weight = weights.get(f"input_weight_{layer}")
    if input_weight is None:
        # The one-hot table holds the gates' inputs already, so that they only pass through.
        gates = len(weights[f"input_bias_{layer}"])
        input_weight = torch.eye(gates, dtype=torch.float64)
    ours = {
        "weight_ih": input_weight,
        "weight_hh": weights[f"hidden_weight_{layer}"],
        "bias_ih": weights[f"input_bias_{layer}"],
        "bias_hh": weights[f"hidden_bias_{layer}"],
    }
    return kind(input_weight.shape[1], UNITS).double(), ours


def dense_loss(
    config: GRU4RecConfig, weights: dict[str, "torch.Tensor"], hidden: list["torch.Tensor"]
) -> "torch.Tensor":
    """The loss of the batch over whole tables, float64, as the papers write it."""
    table = {"constrained": "item_vectors", "separate": "input_vectors", "one-hot": "input_gates"}
    below = weights[table[config.embedding]][INPUTS]
    for layer in range(config.layers):
        cell, parameters = torch_cell(config, weights, layer)
        below = torch.func.functional_call(cell, parameters, (below, hidden[layer]))
    candidates = torch.cat((TARGETS, NEGATIVES))
    scores = below @ weights["item_vectors"][candidates].T + weights["item_bias"][candidates]
    if config.loss == "cross-entropy":
        log_support = torch.from_numpy(np.log(SUPPORT))
        correction = torch.cat((log_support[TARGETS], config.sample_alpha * log_support[NEGATIVES]))
        logits = scores - config.logq * correction
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(3), reduction="sum")
    else:
        s = torch.nn.functional.elu(scores, config.elu_param)
        own = s.diagonal()[:, None]
        w = torch.softmax(s.masked_fill(torch.eye(3, 8, dtype=torch.bool), -torch.inf), dim=1)
        likelihood = (w * torch.sigmoid(own - s)).sum(dim=1)
        loss = (-likelihood.log() + config.bpreg * (w * s**2).sum(dim=1)).sum()
    return loss / config.batch_size  # the nominal batch, though only three rows are left


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("loss", ["cross-entropy", "bpr-max"])
@pytest.mark.parametrize("embedding", ["constrained", "separate", "one-hot"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_moves_every_weight_as_dense_automatic_differentiation_says(
    cell: str, loss: str, embedding: str, layers: int
) -> None:
    """First steps of Adagrad: each weight moves by rate * g / sqrt(g^2 + 1e-6), untouched rows by 0."""
    settings = config(cell=cell, loss=loss, embedding=embedding, layers=layers)
    model = fresh_model(settings)
    before = {n: w.detach().double().requires_grad_() for n, w in model.named_parameters()}
    hidden = [
        torch.randn(3, UNITS, generator=torch.Generator().manual_seed(layer))
        for layer in range(layers)
    ]
    expected_loss = dense_loss(settings, before, [h.double() for h in hidden])
    expected_loss.backward()

    weights = {n: w.detach() for n, w in model.named_parameters()}
    optimiser = MomentumAdagrad(weights, learning_rate=settings.learning_rate, momentum=0.0)
    step = TrainingStep(model, optimiser, SUPPORT)
    loss_sum, _ = step(INPUTS, TARGETS, NEGATIVES, hidden, np.random.default_rng())

    assert loss_sum / BATCH == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, weight in before.items():
        gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
        moved = weight - settings.learning_rate * gradient / torch.sqrt(gradient**2 + 1e-6)
        torch.testing.assert_close(
            weights[name].double(),
            moved.detach(),
            rtol=1e-4,
            atol=2e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_logq_is_only_for_cross_entropy() -> None:
    one, other = (
        TrainingStep(
            model := fresh_model(config(loss="bpr-max", logq=logq)),
            MomentumAdagrad(
                {n: w.detach() for n, w in model.named_parameters()}, learning_rate=0.1, momentum=0
            ),
            SUPPORT,
        )(INPUTS, TARGETS, NEGATIVES, [torch.zeros(3, UNITS)], np.random.default_rng())[0]
        for logq in (0.0, 1.0)
    )
    assert one == other


def test_the_new_hidden_state_is_detached_from_the_step_that_made_it() -> None:
    model = fresh_model(config())
    step = TrainingStep(model, _optimiser(model), SUPPORT)
    _, hidden = step(INPUTS, TARGETS, NEGATIVES, [torch.zeros(3, UNITS)], np.random.default_rng())
    assert all(state.grad_fn is None and not state.requires_grad for state in hidden)


def test_hidden_dropout_acts_with_one_layer_and_the_session_carries_the_dropped_state() -> None:
    settings = config(dropout_hidden=0.5, units=400)
    model = fresh_model(settings)
    start = [torch.zeros(3, 400)]
    expected = model.advance(model.item_vectors[INPUTS], start)[0].detach()
    step = TrainingStep(model, _optimiser(model), SUPPORT)
    _, (state,) = step(INPUTS, TARGETS, NEGATIVES, start, np.random.default_rng(1))
    dropped = state == 0
    assert 0.4 < float(dropped.float().mean()) < 0.6
    torch.testing.assert_close(state[~dropped], 2 * expected[~dropped])


def test_embedding_dropout_changes_what_enters() -> None:
    states = []
    for dropout in (0.0, 0.5):
        model = fresh_model(config(dropout_embedding=dropout))
        step = TrainingStep(model, _optimiser(model), SUPPORT)
        generator = np.random.default_rng(1)
        _, (state,) = step(INPUTS, TARGETS, NEGATIVES, [torch.zeros(3, UNITS)], generator)
        states.append(state)
    assert not torch.equal(*states)


def _optimiser(model: GRU4Rec) -> MomentumAdagrad:
    weights = {n: w.detach() for n, w in model.named_parameters()}
    return MomentumAdagrad(weights, learning_rate=0.05, momentum=0.0)
