"""Ranking losses on the scores of a batch, each with its gradient in closed form.

Scores are float [batch, batch + n_sample]: row `i`'s target is column `i`, all other columns are its
negatives (accidental hits are not masked).  Losses are sums over the rows.  The closed gradient reads
and writes the score matrix a third as often as automatic differentiation does, and that matrix is
what a training step spends its time on; tests hold it to float64 automatic differentiation.
"""

import torch
from torch import Tensor

_LOG_GUARD = 1e-24
"""Keeps the logarithm finite where every sigmoid underflows (float32 holds 1e-38)."""


def cross_entropy(scores: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(scores)[i, i], summed; and its gradient by the scores.  Overwrites `scores`.

    (1706.03847, equation 4, over the target and the sampled items only.)
    """
    own = scores.diagonal().clone()
    highest = scores.amax(dim=1)
    gradient = scores.sub_(highest[:, None]).exp_()
    total = gradient.sum(dim=1)
    loss = (total.log() + highest - own).sum()
    gradient.div_(total[:, None])
    gradient.diagonal().sub_(1.0)
    return loss, gradient


def bpr_max(scores: Tensor, *, elu_param: float, bpreg: float) -> tuple[Tensor, Tensor]:
    """-log sum_j w_j sigmoid(s_i - s_j) + bpreg sum_j w_j s_j^2, summed; and its gradient.

    `s` are the scores after an ELU of alpha `elu_param` (0: as they are), `w` the softmax of `s` over
    the row's negatives, the target's own column left out.  Overwrites `scores`.  (1706.03847,
    equation 10; the ELU on scores is the official implementation's `final_act`.)

    With A = sum_j w_j sigmoid_j and R = sum_j w_j s_j^2:
    dL/ds_j = w_j (1 - sigmoid_j^2 / A + bpreg (2 s_j + s_j^2 - R)),
    dL/ds_i = -sum_j w_j sigmoid_j (1 - sigmoid_j) / A.
    """
    if scores.shape[1] == 1:  # the last session of an epoch, alone and without sampled negatives
        return torch.zeros(()), torch.zeros_like(scores)
    slope = None
    if elu_param > 0:
        below = scores.clamp(max=0.0).exp_().mul_(elu_param)
        # Above 0 `below` is elu_param and the slope 1, below 0 the slope is elu_param * exp(score).
        slope = torch.where(scores > 0, 1.0, below)
        activated = scores.clamp_(min=0.0).add_(below).sub_(elu_param)
    else:
        activated = scores
    own = activated.diagonal().clone()

    sigmoid = torch.sigmoid(own[:, None] - activated)
    weights = activated.clone()
    weights.fill_diagonal_(-torch.inf)
    weights.sub_(weights.amax(dim=1, keepdim=True)).exp_()
    weights.div_(weights.sum(dim=1, keepdim=True))

    weighted = weights * sigmoid
    likelihood = weighted.sum(dim=1).add_(_LOG_GUARD)  # A
    weighted.mul_(sigmoid)
    squares = weighted.sum(dim=1)
    penalty = activated * activated
    regularised = (weights * penalty).sum(dim=1)  # R
    loss = (bpreg * regularised - likelihood.log()).sum()

    gradient = penalty.add_(activated, alpha=2.0).sub_(regularised[:, None]).mul_(bpreg).add_(1.0)
    gradient.mul_(weights).sub_(weighted.div_(likelihood[:, None]))
    gradient.diagonal().copy_(squares / likelihood - 1.0)
    if slope is not None:
        gradient.mul_(slope)
    return loss, gradient
