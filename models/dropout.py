"""Dropout's factors, from numpy's generator: a mask costs a fifth of what torch's takes."""

import numpy as np
import torch
from torch import Tensor


def keep_scale(shape: torch.Size, dropout: float, generator: np.random.Generator) -> Tensor:
    """0 with probability `dropout`, else 1 / (1 - dropout): the expectation stays.  float32."""
    kept = generator.random(tuple(shape), dtype=np.float32) >= np.float32(dropout)
    return torch.from_numpy(kept).to(torch.float32).div_(1.0 - dropout)
