"""torch's process-wide switches, set for a training and put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_set_up(*, threads: int, half_products: bool = False) -> Iterator[None]:
    """threads: of torch; half_products: matrix products may round their factors to bfloat16."""
    threads_before = torch.get_num_threads()
    precision_before = torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium" if half_products else "highest")
    # Softmax weights of hopeless negatives are denormal numbers, which cost a hundredfold.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(precision_before)
        torch.set_num_threads(threads_before)
