"""Audit: whose update is this? An update is laid beside those of other days, and takes the name of the nearest.

The server, or who reads its disk, has updates whose subject (or site) is known from one time, and one from another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def nearest_updates(known: Sequence[Tensor], unknown: Sequence[Tensor]) -> list[int]:
    """Return which of the known updates each found one is nearest to, by the angle, after both means are taken away.

    Parameters
    ----------
    known, unknown : sequence of tensor, shape (n_values,)
        One of each subject or site, in the same order.
    """
    sides = []
    for part in (known, unknown):
        stacked = torch.stack(list(part)).double()
        centred = stacked - stacked.mean(0)
        sides.append(centred / (centred.norm(dim=1, keepdim=True) + 1e-12))
    return (sides[1] @ sides[0].T).argmax(dim=1).tolist()  # type: ignore[no-any-return]


def n_named(known: Sequence[Tensor], unknown: Sequence[Tensor]) -> int:
    """Count the found updates whose name is right; by chance it is one."""
    return sum(guess == k for k, guess in enumerate(nearest_updates(known, unknown)))
