"""A trained GRU4Rec -> the weights that `export.graphs` builds its two graphs from."""

import numpy as np
from torch import Tensor

from export.graphs import Floats, LayerWeights, NetworkWeights
from models.gru4rec import GRU4Rec


def network_weights(model: GRU4Rec) -> NetworkWeights:
    """The network's parameters, as the graphs multiply them: from the right.

    Any cell, number of layers and kind of embedding.  The query is the last layer's state, and so it
    must stay here: `export.parity` fails on a model that reads its states in another way.
    """
    config = model.config
    layers = tuple(
        LayerWeights(
            hidden=_transposed(model.get_parameter(f"hidden_weight_{number}")),
            hidden_bias=_array(model.get_parameter(f"hidden_bias_{number}")),
            input=(
                None
                if number == 0 and config.embedding == "one-hot"
                else _transposed(model.get_parameter(f"input_weight_{number}"))
            ),
            input_bias=_array(model.get_parameter(f"input_bias_{number}")),
        )
        for number in range(config.layers)
    )
    return NetworkWeights(
        cell=config.cell,
        item_table=_array(model.get_parameter(model.input_table)),
        layers=layers,
        output_matrix=_array(model.output_matrix()),
        output_bias=_array(model.output_bias()),
    )


def _array(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def _transposed(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(_array(tensor).T)
