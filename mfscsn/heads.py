"""Heads by label: first rows that depend on a run's seed and a label's name alone, so that all sites draw the same."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mfscsn.training import derive_seed


def label_rows(n_features: int, labels: Sequence[str], seed: int) -> Tensor:
    """Draw the rows of labels ``(n_labels, n_features)`` from the run's seed and their names: the same at all sites."""
    rows = []
    for name in labels:
        drawn = torch.Generator().manual_seed(derive_seed(seed, "head", 0, name))
        rows.append(n_features**-0.5 * (2 * torch.rand(n_features, generator=drawn) - 1))
    return torch.stack(rows)


def start_by_label(layer: nn.Linear, labels: Sequence[str], seed: int) -> None:
    """Give a head the rows of its labels, and no bias.

    The common layers of sites that imagine the same limb are then asked for the same thing from the first step on, and
    no site has told another what its subjects imagine.
    """
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.copy_(label_rows(layer.in_features, labels, seed))
