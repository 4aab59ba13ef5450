# ruff: noqa: E402 - torch is looked for first
"""The network: what serving steps through, and how it starts."""

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models.config import GRU4RecConfig
from models.gru4rec import GRU4Rec


def model_of(**fields: object) -> GRU4Rec:
    model = GRU4Rec(GRU4RecConfig(units=6).changed(**fields), n_items=9)
    model.initialise(torch.Generator().manual_seed(1))
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("embedding", ["constrained", "separate", "one-hot"])
def test_a_step_gives_back_the_declared_states(cell: str, embedding: str, layers: int) -> None:
    model = model_of(cell=cell, embedding=embedding, layers=layers)
    declared = model.state_tensors()
    states = model.step(torch.tensor([3, 8]), *model.start_states(2))
    assert [tensor.name for tensor in declared] == [f"hidden_{i}" for i in range(layers)]
    assert [(tuple(s.shape), s.dtype) for s in states] == [((2, 6), torch.float16)] * layers
    assert model.query(*states).dtype == torch.float32


def test_a_batch_is_its_rows() -> None:
    model = model_of(layers=2)
    together = model.step(torch.tensor([3, 8]), *model.start_states(2))
    for row, item in enumerate((3, 8)):
        alone = model.step(torch.tensor([item]), *model.start_states(1))
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], many[row])


def test_rounding_to_the_stored_precision_is_part_of_the_step() -> None:
    """Two steps through stored states equal two steps through bytes and back."""
    model = model_of()
    states = model.step(torch.tensor([1]), *model.start_states(1))
    stored = states[0].numpy().tobytes()
    restored = torch.frombuffer(bytearray(stored), dtype=torch.float16).reshape(1, 6)
    assert torch.equal(
        model.step(torch.tensor([2]), *states)[0], model.step(torch.tensor([2]), restored)[0]
    )


def test_scores_are_the_query_times_the_output_matrix_plus_the_bias() -> None:
    model = model_of()
    states = model.step(torch.tensor([1, 2]), *model.start_states(2))
    by_hand = model.query(*states) @ model.output_matrix().T + model.output_bias()
    torch.testing.assert_close(model.scores(*states).detach(), by_hand)


def test_constrained_embeddings_share_one_matrix() -> None:
    model = model_of(embedding="constrained")
    assert model.input_table == "item_vectors"
    names = {name for name, weight in model.named_parameters() if len(weight) == 9}
    assert names == {"item_vectors", "item_bias"}


@pytest.mark.parametrize("embedding", ["separate", "one-hot"])
def test_other_embeddings_have_a_second_table(embedding: str) -> None:
    model = model_of(embedding=embedding)
    assert model.input_table != "item_vectors"


def test_weights_start_uniform_within_their_bound_and_biases_at_zero() -> None:
    model = GRU4Rec(GRU4RecConfig(units=50), n_items=2000)
    model.initialise(torch.Generator().manual_seed(1))
    gate = math.sqrt(6 / (50 + 50))
    item = math.sqrt(6 / (2000 + 50))
    for name, bound in (
        ("input_weight_0", gate),
        ("hidden_weight_0", gate),
        ("item_vectors", item),
    ):
        weight = model.get_parameter(name).detach()
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert not any(w.any() for n, w in model.named_parameters() if "bias" in n)
