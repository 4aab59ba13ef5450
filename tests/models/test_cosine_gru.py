# ruff: noqa: E402 - torch is looked for first
"""The cosine GRU: a whole session at once and click by click are the same, and so is one step of training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from torch.nn.functional import cross_entropy, normalize

from export.parity import check_parity
from export.to_onnx import network_weights
from models.config import CosineGRUConfig
from models.cosine_gru import CosineGRU
from models.cosine_gru_learner import CosineGRULearner
from models.negatives import NegativeSampler, sampling_weights
from models.sampled_softmax import log_inclusion
from models.train import train
from models.whole_sessions import whole_sessions
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import BundleError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable
from tests.bundles import make_bundle

N_ITEMS = 9
SMALL = CosineGRUConfig(
    units=6, history_items=3, batch_clicks=50, n_sample=4, dropout_items=0.0, epochs=2,
    precision="float32",
)  # fmt: skip


def network(config: CosineGRUConfig = SMALL, n_items: int = N_ITEMS) -> CosineGRU:
    """Every weight has something to show."""
    model = CosineGRU(config, n_items)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def table(sessions: list[list[int]]) -> SessionTable:
    starts = np.cumsum([0, *map(len, sessions)])
    items = np.array([item for session in sessions for item in session], dtype=np.int64)
    return SessionTable(items, starts, np.repeat(np.arange(len(sessions)), np.diff(starts)))


def scores_click_by_click(model: CosineGRU, session: list[int]) -> "torch.Tensor":
    """The formulas of the class, one click after the other: [clicks, n_items], float64."""
    w = {name: weight.detach().double() for name, weight in model.named_parameters()}
    vectors = w["item_vectors"]
    units, lags = model.config.units, model.config.history_items
    gru = torch.nn.GRU(units, units).double()
    gru.load_state_dict({n.removeprefix("gru."): t for n, t in w.items() if n.startswith("gru.")})
    hidden = torch.zeros(1, 1, units, dtype=torch.float64)
    rows = []
    for position, item in enumerate(session):
        _, hidden = gru(vectors[item][None, None], hidden)
        h = hidden[0, 0]
        query = w["from_hidden"] @ h + w["from_last"] * vectors[item]
        repeats = torch.zeros(model.n_items, dtype=torch.float64)
        seen: set[int] = set()
        for lag in range(min(lags, position + 1)):
            past = session[position - lag]
            if past in seen:
                continue
            seen.add(past)
            gate = torch.sigmoid(
                w["attention_hidden"] @ h
                + w["attention_item"] @ vectors[past]
                + w["attention_bias"]
            )
            weight = torch.exp(w["lag_bias"][lag]) * (w["attention_out"] @ gate)
            query = query + w["from_history"] * weight * vectors[past]
            repeats[past] = w["repeat_lag"][lag] + w["repeat_hidden"] @ h
        cosines = normalize(vectors, dim=1) @ normalize(query, dim=0)
        rows.append(cosines / model.config.temperature + repeats)
    return torch.stack(rows).detach()


@pytest.mark.parametrize("session", [[3], [1, 2, 3, 4, 5], [1, 1, 2, 1, 1], [4, 0, 4, 0, 4, 0]])
def test_steps_give_the_scores_of_the_formulas(session: list[int]) -> None:
    """Up to the state's rounding to half precision."""
    model = network()
    expected = scores_click_by_click(model, session)
    states = model.start_states(1)
    for position, item in enumerate(session):
        states = model.step(torch.tensor([item]), *states)
        ours = model.scores(*states)[0].detach().double()
        torch.testing.assert_close(ours, expected[position], rtol=0, atol=0.05)


def test_a_step_of_training_descends_the_loss_of_the_formulas() -> None:
    """The gradient of the item table and of a layer, against automatic differentiation in float64."""
    sessions = [[1, 2, 3, 1], [4, 5], [2, 2, 6]]
    model = network()
    learner = CosineGRULearner(model, table(sessions))
    before = {name: weight.clone() for name, weight in model.weights().items()}
    ((events, loss),) = [step() for step in learner.epoch(0)]
    assert events == 6

    expected = dense_loss(learner, before, sessions)
    expected.loss.backward()
    assert loss / events == pytest.approx(expected.loss.item(), rel=1e-4)
    for name, weight in model.weights().items():
        gradient = expected.weights[name].grad
        assert gradient is not None
        mean = learner.optimiser_state()[f"mean.{name}"]
        # Adam's first step: its mean is a tenth of the gradient.
        torch.testing.assert_close(
            mean.double() * 10, gradient, rtol=2e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert not torch.equal(weight, before[name])


class Dense:
    loss: "torch.Tensor"
    weights: dict[str, "torch.Tensor"]


def dense_loss(
    learner: CosineGRULearner, start: dict[str, "torch.Tensor"], sessions: list[list[int]]
) -> Dense:
    """Softmax over the candidates, row by row: own items of the future left out, logQ on strangers only."""
    config = learner.model.config
    weights = {name: weight.double().requires_grad_() for name, weight in start.items()}
    rng = np.random.default_rng((config.seed, 0))
    support = table(sessions).support(N_ITEMS)
    sampled = sampling_weights(support, config.sample_alpha)
    sampler = NegativeSampler(sampled, rng)
    batches = whole_sessions(
        table(sessions), batch_clicks=config.batch_clicks, session_clicks_max=20, generator=rng
    )
    next(batches)
    drawn = sampler.draw(config.n_sample)
    candidates = sorted({item for session in sessions for item in session} | set(drawn.tolist()))
    logq = log_inclusion(
        support[candidates] / support.sum(),
        (sampled / sampled.sum())[candidates],
        clicks=6,
        n_sample=config.n_sample,
    )
    correction = dict(zip(candidates, logq.tolist(), strict=True))
    model = CosineGRU(config, N_ITEMS).double()
    losses = []
    for session in sessions:
        for position in range(len(session) - 1):
            target, past = session[position + 1], session[: position + 1]
            future = set(session[position + 2 :]) - set(past) - {target}
            scores = differentiable_scores(model, weights, past)
            kept = [item for item in candidates if item not in future]
            row = torch.stack([scores[i] - (0.0 if i in past else correction[i]) for i in kept])
            losses.append(cross_entropy(row[None], torch.tensor([kept.index(target)])))
    result = Dense()
    result.loss, result.weights = torch.stack(losses).mean(), weights
    return result


def differentiable_scores(
    model: CosineGRU, weights: dict[str, "torch.Tensor"], session: list[int]
) -> "torch.Tensor":
    """Scores after the session's last click, through `walk` of a batch of one."""
    vectors = weights["item_vectors"][session][:, None]
    lags = min(model.config.history_items, len(session))
    newest = torch.zeros(lags, len(session), 1, dtype=torch.float64)
    for lag in range(lags):
        for at in range(lag, len(session)):
            newest[lag, at, 0] = float(session[at - lag] not in session[at - lag + 1 : at + 1])
    queries, repeats = torch.func.functional_call(_Walk(model), _under(weights), (vectors, newest))
    query = normalize(queries[-1, 0], dim=0)
    scores = normalize(weights["item_vectors"], dim=1) @ query / model.config.temperature
    bonus = torch.zeros(N_ITEMS, dtype=torch.float64)
    for lag in range(lags):
        if newest[lag, -1, 0]:
            item = torch.tensor([session[len(session) - 1 - lag]])
            bonus = bonus.index_add(0, item, repeats[lag, -1])
    return scores + bonus


class _Walk(torch.nn.Module):
    def __init__(self, model: CosineGRU) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, vectors: "torch.Tensor", newest: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        return self.model.walk(vectors, newest)


def _under(weights: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    return {f"model.{name}": weight for name, weight in weights.items()}


def test_walk_is_the_formulas_too() -> None:
    """What training sees and what serving sees are the same scores."""
    model = network().double()
    for session in ([2], [1, 2, 3, 4, 5], [1, 1, 2, 1, 1], [4, 0, 4, 0, 4]):
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        ours = differentiable_scores(model, weights, session)
        expected = scores_click_by_click(model, session)[-1]
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-9, atol=1e-9)


def test_recent_items_are_kept_once_newest_first() -> None:
    model = network()
    states = model.start_states(1)
    for item in (4, 5, 4, 7):
        states = model.step(torch.tensor([item]), *states)
    assert states[1].tolist() == [[8, 5, 6]]
    states = model.step(torch.tensor([4]), *states)
    assert states[1].tolist() == [[5, 8, 0]]


def test_what_repeats_is_learned() -> None:
    """Here the visitor always goes back to the click before the last: a b a, c d c."""
    rng = np.random.default_rng(0)
    sessions = []
    for _ in range(300):
        one, other = rng.permutation(12)[:2].tolist()
        sessions.append([one, other, one, other, one])
    config = SMALL.changed(units=16, epochs=8, learning_rate=0.02, batch_clicks=64, n_sample=16)
    vocabulary = ItemVocabulary(f"i{n}" for n in range(12))
    model = train(table(sessions), vocabulary, config).checkpoint.model()
    states = model.start_states(1)
    for item in (3, 9, 3):
        states = model.step(torch.tensor([item]), *states)
    assert model.scores(*states).argmax().item() == 9


@pytest.mark.parametrize("n_items", [30, 6_000])
def test_torch_and_the_bundle_agree(tmp_path: Path, n_items: int) -> None:
    """30 items: lists shorter than `k` and the own items; 6,000: the graph that rounds first is tried."""
    model = network(SMALL.changed(units=16, history_items=5), n_items).eval().requires_grad_(False)
    scorer = OnnxScorer.load(make_bundle(tmp_path, n_items, weights=network_weights(model)))
    assert scorer.manifest.state == model.state_tensors()
    report = check_parity(model, scorer)
    assert report.recall == 1.0
    assert report.step > 0, "a difference of exactly nothing means that torch was not asked"


def test_a_wrong_repeat_is_noticed_by_parity(tmp_path: Path) -> None:
    model = network().eval().requires_grad_(False)
    weights = network_weights(model)
    wrong = replace(weights, repeat_lag=weights.repeat_lag + np.float32(0.5))
    scorer = OnnxScorer.load(make_bundle(tmp_path, N_ITEMS, weights=wrong))
    with pytest.raises(BundleError, match="a score differs"):
        check_parity(model, scorer)
