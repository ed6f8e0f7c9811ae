import numpy as np
import pytest
from scipy.special import softmax

from mfscsn import experts
from mfscsn.experts import averaged, centred_logits


def test_logits_by_hand():
    """Of e^2 : 1 : e^-1 in the first and last output alone: 2 and -1, less their mean."""
    told = softmax(np.array([[2.0, 0.0, -1.0]]), axis=1)
    np.testing.assert_allclose(centred_logits(told, np.array([0, 2])), [[1.5, -1.5]])


def test_what_is_nearly_certain_keeps_its_logit():
    told = softmax(np.array([[40.0, 0.0], [300.0, 0.0], [0.0, 0.0]]), axis=1)
    np.testing.assert_allclose(centred_logits(told, np.arange(2))[:, 0], [20.0, 150.0, 0.0], rtol=1e-12)


def test_an_average_by_hand(monkeypatch):
    monkeypatch.setitem(experts.SCALES, "network", 10.0)
    monkeypatch.setitem(experts.SCALES, "linear", 0.1)
    sure, unsure = (softmax(np.array([row]), axis=1) for row in ([20.0, 0.0], [0.0, 0.4]))
    mean = averaged([(0.5, "network", sure), (0.5, "linear", unsure)], np.arange(2))
    # 10 / 10 and -0.2 / 0.1: half of 1 - 2 for the first output, and its opposite for the other
    np.testing.assert_allclose(mean, softmax([[-0.5, 0.5]], axis=1))


def test_outputs_that_may_not_be_have_no_part():
    told = np.array([[0.2, 0.5, 0.3]])
    mean = averaged([(1.0, "linear", told)], np.array([0, 2]))
    assert mean[0, 1] == 0 and mean.sum() == pytest.approx(1) and mean[0, 2] > mean[0, 0]


def test_an_average_of_a_sure_and_an_unsure_expert_of_equal_worth_is_better_than_either():
    """Two that see the same signal in noise of their own; one says it a thousand times as loud."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 20_000)
    heard = [(2 * labels - 1) + 1.5 * rng.standard_normal(labels.size) for _ in range(2)]
    loud = {"network": 30.0, "linear": 0.03}
    told = {
        kind: softmax(np.stack([0 * x, scale * x], 1), axis=1)
        for (kind, scale), x in zip(loud.items(), heard, strict=True)
    }
    right = {kind: (p.argmax(1) == labels).mean() for kind, p in told.items()}
    spread = {kind: float(np.std(centred_logits(p, np.arange(2)))) for kind, p in told.items()}
    with pytest.MonkeyPatch.context() as patch:
        for kind, value in spread.items():
            patch.setitem(experts.SCALES, kind, value)
        both = averaged([(0.5, kind, p) for kind, p in told.items()], np.arange(2))
    mean_of_probabilities = sum(told.values()) / 2
    better = (both.argmax(1) == labels).mean()
    assert better > max(right.values()) + 0.05  # 0.827 expected for 0.748
    assert (mean_of_probabilities.argmax(1) == labels).mean() < better - 0.05  # it is the loud one's
