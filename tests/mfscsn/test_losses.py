import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfscsn.losses import branch_mmd, class_weights, mmd


def test_class_weights_by_hand():
    """Three of one class, one of another, none of the third: 4 / (2 * 3) and 4 / (2 * 1)."""
    assert torch.allclose(class_weights(torch.tensor([3.0, 1.0, 0.0])), torch.tensor([2 / 3, 2.0, 0.0]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_trials_weigh_one_on_average_and_classes_alike(labels):
    codes = torch.tensor(labels)
    weights = class_weights(torch.bincount(codes, minlength=5).float())
    assert math.isclose(float(weights[codes].mean()), 1.0, rel_tol=1e-5)
    totals = [float(weights[k]) * labels.count(k) for k in set(labels)]
    assert np.allclose(totals, totals[0], rtol=1e-5)


def test_mmd_by_hand():
    """One point each, a squared distance d apart: bandwidth d, so MMD = 10 - 2 * sum of exp(-1 / 2^k)."""
    expected = 10 - 2 * sum(math.exp(-1 / 2.0**k) for k in range(-2, 3))
    assert math.isclose(float(mmd(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))), expected, rel_tol=1e-5)


def test_mmd_grows_with_distance_and_vanishes_for_the_same_sample():
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    assert abs(float(mmd(x, x))) < 1e-5
    assert float(mmd(x, torch.randn(40, 3))) < float(mmd(x, torch.randn(40, 3) + 2))


def test_branches_are_matched_by_label_and_deeper_layers_weigh_more():
    torch.manual_seed(0)
    near, far = torch.randn(10, 4), torch.randn(10, 4) + 5
    labels = [["left_hand"] * 10] * 2
    assert float(branch_mmd([[near], [far]], [["left_hand"] * 10, ["feet"] * 10])) == 0.0
    shallow = branch_mmd([[near, near, near], [far, near, near]], labels)
    deep = branch_mmd([[near, near, near], [near, near, far]], labels)
    assert math.isclose(float(deep / shallow), 3.0, rel_tol=1e-3)
