"""A trained network -> the weights that `export.graphs` builds its two graphs from."""

import numpy as np
import torch
from torch import Tensor

from export.cosine_gru_graph import CosineGRUWeights
from export.graphs import Floats, Network
from export.gru4rec_graph import GRU4RecWeights, LayerWeights
from models.cosine_gru import QUERY_LENGTH, CosineGRU
from models.gru4rec import GRU4Rec
from models.network import SessionModel


def network_weights(model: SessionModel) -> Network:
    """The network's parameters, as the graphs multiply them: from the right.

    `export.parity` fails on a model that computes in another way than its graphs.
    """
    if isinstance(model, CosineGRU):
        return cosine_gru_weights(model)
    assert isinstance(model, GRU4Rec)
    return gru4rec_weights(model)


def gru4rec_weights(model: GRU4Rec) -> GRU4RecWeights:
    """Any cell, number of layers and kind of embedding."""
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
    return GRU4RecWeights(
        cell=config.cell,
        item_table=_array(model.get_parameter(model.input_table)),
        layers=layers,
        output_matrix=_array(model.output_matrix()),
        output_bias=_array(model.output_bias()),
    )


def cosine_gru_weights(model: CosineGRU) -> CosineGRUWeights:
    gru = model.gru
    return CosineGRUWeights(
        item_table=_array(model.item_vectors),
        directions=_array(model.output_matrix()),
        gru=LayerWeights(
            hidden=_transposed(gru.get_parameter("weight_hh_l0")),
            hidden_bias=_array(gru.get_parameter("bias_hh_l0")),
            input=_transposed(gru.get_parameter("weight_ih_l0")),
            input_bias=_array(gru.get_parameter("bias_ih_l0")),
        ),
        from_hidden=_transposed(model.from_hidden),
        from_last=_array(model.from_last),
        from_history=_array(model.from_history),
        attention_hidden=_transposed(model.attention_hidden),
        attention_bias=_array(model.attention_bias),
        attention_item=_transposed(model.attention_item),
        attention_out=_array(model.attention_out),
        lag_weight=_array(torch.exp(model.lag_bias)),
        repeat_lag=_array(model.repeat_lag),
        repeat_hidden=_array(model.repeat_hidden),
        query_length=QUERY_LENGTH,
    )


def _array(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def _transposed(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(_array(tensor).T)
