"""How many threads torch computes with: a part of what a result depends on.

Sums are split between threads, so another number of threads can mean other last bits; the number of workers must not.
So a unit of work always runs with the number that its run says, whatever the machine has.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """torch computes with `count` threads inside; the number from before comes back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
