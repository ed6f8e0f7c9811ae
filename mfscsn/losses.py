"""Losses: what a branch must tell apart, and how far two branches may drift from each other."""

from collections.abc import Sequence

import torch
from torch import Tensor


def class_weights(counts: Tensor) -> Tensor:
    """Weigh classes against their frequency: ``n_trials / (n_classes_present * n_trials_of_class)``.

    Parameters
    ----------
    counts : tensor, shape (n_outputs,)
        How many trials of each class training shows: `SplitModule.shown_counts`.

    Returns
    -------
    tensor, shape (n_outputs,)
        Zero for a class with no trial. The weights of all trials have mean one.
    """
    present = counts > 0
    weights = torch.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy with a sum of five Gaussian kernels around the mean distance (biased estimate).

    Parameters
    ----------
    x, y : tensor, shape (n, n_features) and (m, n_features)

    Returns
    -------
    tensor, shape ()
        Not negative; zero when the two samples are the same.

    References
    ----------
    Gretton et al. 2012, JMLR 13:723-773; the kernels' widths after Long et al. 2015 (arXiv:1502.02791).
    """
    both = torch.cat([x, y])
    squared = (both[:, None] - both[None, :]).square().sum(-1)
    bandwidth = squared.detach().sum() / max(1, len(both) * (len(both) - 1))
    kernel = sum(torch.exp(-squared / (bandwidth * 2.0**k).clamp(min=1e-12)) for k in range(-2, 3))
    assert isinstance(kernel, Tensor)
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def branch_mmd(features: Sequence[Sequence[Tensor]], labels: Sequence[Sequence[str]]) -> Tensor:
    """MMD between branches of one site, matched by label, deeper layers weighing more: 1/6, 1/3, 1/2 for three.

    Parameters
    ----------
    features : for each branch, its deep layers' outputs, each of shape (n_trials, width)
    labels : for each branch, the label name of each of those trials

    Returns
    -------
    tensor, shape ()
        Mean over the pairs of branches and the labels that both hold at least twice; zero when there are none.

    References
    ----------
    SCSN-MMD: Wei, Ortega, Faisal 2021, IEEE NER.
    """
    terms = []
    for a in range(len(features)):
        for b in range(a + 1, len(features)):
            for name in sorted(set(labels[a]) & set(labels[b])):
                at = [torch.tensor([label == name for label in labels[k]]) for k in (a, b)]
                if min(int(mask.sum()) for mask in at) < 2:
                    continue
                depth = len(features[a])
                terms.append(
                    sum(
                        (layer + 1) / (depth * (depth + 1) / 2) * mmd(x[at[0]], y[at[1]])
                        for layer, (x, y) in enumerate(zip(features[a], features[b], strict=True))
                    )
                )
    return torch.stack([torch.as_tensor(term) for term in terms]).mean() if terms else torch.zeros(())
