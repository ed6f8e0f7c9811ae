"""Audit: which labels has a site? Its update leans towards the rows of its heads, and the run's seed tells those.

The heads of the common space begin with a row for each label's name (`mfscsn.heads`), and the server knows the seed.
The gradient of the body's last linear map, ``(n_filters, n_inputs)``, is the difference of the rows of two labels times
something: so its columns lie near the span of that difference's time steps, and of no other's.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mfscsn.heads import label_rows

LAST = "body.pointwise"  # the last linear map of the body, in common layers
USUAL = ("left_hand", "right_hand", "feet", "hands", "rest", "tongue")  # what a site may imagine, in this field


def rows_by_label(n_features: int, n_filters: int, labels: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Draw each label's row as the heads have it, ``(n_filters, n_steps)``."""
    rows = label_rows(n_features, labels, seed).double()
    return {name: row.reshape(n_filters, -1) for name, row in zip(labels, rows, strict=True)}


def named_pair(update: Tensor, rows: Mapping[str, Tensor]) -> tuple[str, str]:
    """Name the two labels in whose difference most of an update of the last linear map lies.

    Parameters
    ----------
    update : tensor, shape (n_filters, n_inputs)
    rows : mapping of label to tensor, shape (n_filters, n_steps)
        Of all labels that may be.
    """

    def share(pair: tuple[str, str]) -> float:
        basis, _ = torch.linalg.qr(rows[pair[0]] - rows[pair[1]])
        return float((basis.T @ update.double()).square().sum())

    return max(itertools.combinations(rows, 2), key=share)
