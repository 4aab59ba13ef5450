"""The network: item vectors, recurrent layers, scores.  It knows nothing of data or optimisers."""

import math
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from models.config import GRU4RecConfig
from models.network import SessionModel, parameter
from stream_app.core.manifest import StateTensor

GATES: Final = {"gru": 3, "rnn": 1}


class GRU4Rec(SessionModel):
    """Next-item scores from a session's clicks (Hidasi et al. 2016, 1511.06939).

    A session is carried as one hidden state per layer.  `step` is what serving does with a click,
    `advance` what training does: the same cells, with dropout and without rounding.

    The GRU's reset gate acts on the hidden state's product with the weights (Cho et al. 2014 in the
    form of cuDNN and `torch.nn.GRUCell`) and not on the hidden state itself as in the paper's
    equation 4: one matrix product instead of two, and no difference in quality.
    """

    item_tables: ClassVar[frozenset[str]] = frozenset(
        {"item_vectors", "item_bias", "input_vectors", "input_gates"}
    )
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items
        units, gates = config.units, GATES[config.cell]
        self.item_vectors = parameter(n_items, units)
        self.item_bias = parameter(n_items)
        if config.embedding == "separate":
            self.input_vectors = parameter(n_items, units)
        elif config.embedding == "one-hot":
            self.input_gates = parameter(n_items, gates * units)
        for layer in range(config.layers):
            if layer > 0 or config.embedding != "one-hot":
                self.register_parameter(f"input_weight_{layer}", parameter(gates * units, units))
            self.register_parameter(f"hidden_weight_{layer}", parameter(gates * units, units))
            self.register_parameter(f"input_bias_{layer}", parameter(gates * units))
            self.register_parameter(f"hidden_bias_{layer}", parameter(gates * units))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Uniform in +-sqrt(6 / (d_in + d_out)), matrix by matrix and gate by gate; biases 0."""
        units = self.config.units
        for name, weight in self.named_parameters():
            if "bias" in name:
                weight.zero_()
                continue
            d_in = units if name.startswith(("input_weight", "hidden_weight")) else self.n_items
            bound = math.sqrt(6.0 / (d_in + units))
            weight.uniform_(-bound, bound, generator=generator)

    @property
    def input_table(self) -> str:
        """Name of the table that a clicked item's row is taken from."""
        names = {"constrained": "item_vectors", "separate": "input_vectors"}
        return names.get(self.config.embedding, "input_gates")

    def advance(
        self, rows: Tensor, hidden: list[Tensor], keep_scale: list[Tensor] | None = None
    ) -> list[Tensor]:
        """New hidden states of all layers, float32 [batch, units] each.

        rows: float32 [batch, ...], each click's row of `input_table`.
        keep_scale: a dropout factor (0 or 1 / (1 - p)) per layer and unit, [batch, units] each.
        """
        after: list[Tensor] = []
        below = rows
        for layer, state in enumerate(hidden):
            if layer == 0 and self.config.embedding == "one-hot":
                gate_inputs = below + self.get_parameter(f"input_bias_{layer}")
            else:
                gate_inputs = linear(
                    below,
                    self.get_parameter(f"input_weight_{layer}"),
                    self.get_parameter(f"input_bias_{layer}"),
                )
            gate_hidden = linear(
                state,
                self.get_parameter(f"hidden_weight_{layer}"),
                self.get_parameter(f"hidden_bias_{layer}"),
            )
            below = _CELLS[self.config.cell](gate_inputs, gate_hidden, state)
            if keep_scale is not None:
                below = below * keep_scale[layer]
            after.append(below)
        return after

    def step(self, item: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        rows = self.get_parameter(self.input_table).index_select(0, item)
        after = self.advance(rows, [state.to(torch.float32) for state in states])
        return tuple(new.to(old.dtype) for new, old in zip(after, states, strict=True))

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """One per layer."""
        return tuple(
            StateTensor(name=f"hidden_{layer}", shape=(self.config.units,), dtype="float16")
            for layer in range(self.config.layers)
        )

    def query(self, *states: Tensor) -> Tensor:
        """The last layer's state.

        The ELU that BPR-max puts on scores in training is left out: it changes no order, and saturates
        into ties.
        """
        return states[-1].to(torch.float32)

    def output_matrix(self) -> Tensor:
        return self.item_vectors.detach()

    def output_bias(self) -> Tensor:
        return self.item_bias.detach()


def _gru(gate_inputs: Tensor, gate_hidden: Tensor, state: Tensor) -> Tensor:
    """gate_*: [batch, 3 units], in the order reset, update, candidate."""
    reset_in, update_in, candidate_in = gate_inputs.chunk(3, dim=1)
    reset_hid, update_hid, candidate_hid = gate_hidden.chunk(3, dim=1)
    reset = torch.sigmoid(reset_in + reset_hid)
    update = torch.sigmoid(update_in + update_hid)
    candidate = torch.tanh(candidate_in + reset * candidate_hid)
    return candidate + update * (state - candidate)


def _rnn(gate_inputs: Tensor, gate_hidden: Tensor, _state: Tensor) -> Tensor:
    return torch.tanh(gate_inputs + gate_hidden)


_CELLS: Final = {"gru": _gru, "rnn": _rnn}
