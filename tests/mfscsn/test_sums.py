"""Sums over trials: they add up to the pooled solution, which is discriminant analysis and, of two labels, ridge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from mfscsn.branch import Branch, BranchTrials
from mfscsn.choices import MEANS, SUMS
from mfscsn.common_space import ELECTRODES
from mfscsn.network import Architecture
from mfscsn.settings import Settings
from mfscsn.sums import OWN_WEIGHT, RIDGE, Summed, clipped, person_vectors, sums_of
from mfscsn.training import fine_tune, predict, train_round

LABELS = ("left_hand", "right_hand", "rest")
THREE = ("C3", "Cz", "C4")
BAND = (10.0, 14.0)  # Hz: one view


def network(labels=LABELS, body=SUMS, electrodes=THREE, share="middle", mirrors=False):
    named = labels if mirrors else tuple(f"task-{label}" for label in labels[:1]) + labels[1:]  # else: no image
    a = Architecture(200, 100.0, "common-space", BAND, share=share, electrodes=electrodes, body=body)
    return a.build({"b": Branch(3, len(labels), named)})


def trials(n=30, labels=LABELS, seed=0, there=None, persons=2):
    rng = np.random.default_rng(seed)
    codes = rng.choice(range(len(labels)) if there is None else there, n)
    codes[: len(labels if there is None else there)] = range(len(labels)) if there is None else there
    signals = rng.standard_normal((n, 1, 6)) + np.arange(6) * codes[:, None, None] / 5
    names = np.array([f"d/{k}" for k in rng.integers(persons, size=n)])
    return BranchTrials(signals.astype(np.float32), codes.astype(np.int64), labels, names)


def joined(parts):
    return BranchTrials(
        np.concatenate([p.signals for p in parts]),
        np.concatenate([p.labels for p in parts]),
        parts[0].names,
        np.concatenate([p.persons for p in parts]),
    )


def taught(of, labels=LABELS, **how):
    made = network(labels, **how)
    train_round(made, {"b": of}, Settings(), seed=0)
    return made


def test_one_feature_by_hand():
    """Two trials a label at 0, 2 and 4, 8: sums 2 and 12, scatter 84, within it 84 - 2 - 72 = 10, and the ridge."""
    signals = np.array([0, 2, 4, 8], np.float32).reshape(4, 1, 1)
    of = BranchTrials(signals, np.array([0, 0, 1, 1]), ("a", "b"))
    counts, totals, scatter = sums_of(of)
    assert counts.tolist() == [2, 2] and totals.tolist() == [[2], [12]] and scatter.tolist() == [[84]]
    weights = 4 * np.array([1.0, 6.0]) / (10 + RIDGE)
    a = Architecture(200, 100.0, "common-space", BAND, electrodes=("Cz",), body=SUMS)
    made = a.build({"b": Branch(1, 2, ("a", "b"))})
    train_round(made, {"b": of}, Settings(), seed=0)
    found, biases = made.solution("b")
    np.testing.assert_allclose(found.ravel(), weights)
    np.testing.assert_allclose(biases, -weights * [1, 6] / 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**31), st.booleans())
def test_the_sites_sums_are_the_pooled_ones(n_sites, seed, mirrors):
    """Also where sites have different labels: a row of zeros says nothing."""
    rng = np.random.default_rng(seed)
    subsets = [sorted(rng.choice(3, rng.integers(2, 4), replace=False)) for _ in range(n_sites)]
    parts = [trials(int(rng.integers(8, 40)), seed=seed + k, there=there) for k, there in enumerate(subsets)]
    together = network(mirrors=mirrors)
    of_sites = [taught(part, mirrors=mirrors).common_state() for part in parts]
    together.load_common({name: sum(state[name] for state in of_sites) for name in of_sites[0]})
    pooled = taught(joined(parts), mirrors=mirrors)
    for one, other in zip(together.solution("b"), pooled.solution("b"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_two_labels_decide_as_a_ridge_does():
    two = trials(60, ("a", "b"), there=[0, 1])
    weights, _ = taught(two, ("a", "b")).solution("b")
    direction = (weights[1] - weights[0]).numpy()
    ridge = Ridge(RIDGE).fit(two.signals.reshape(60, -1).astype(np.float64), 2 * two.labels - 1).coef_
    assert np.dot(direction, ridge) / np.linalg.norm(direction) / np.linalg.norm(ridge) == pytest.approx(1, abs=1e-9)


def test_many_labels_decide_as_discriminant_analysis_does(monkeypatch):
    many, new = trials(300), trials(400, seed=9)
    many = BranchTrials(many.signals, np.arange(300) % 3, LABELS)  # as many of each: then it weighs covariances alike
    monkeypatch.setattr("mfscsn.sums.RIDGE", 0.0)
    rival = LinearDiscriminantAnalysis("lsqr", priors=[1 / 3] * 3).fit(many.signals.reshape(300, -1), many.labels)
    found = predict(taught(many), new.signals, "b")
    np.testing.assert_allclose(found, rival.predict_proba(new.signals.reshape(400, -1)), atol=1e-5)


def test_own_trials_count_as_so_many_copies():
    """The site's sums hold them once already."""
    others, own = trials(40, seed=1), trials(9, seed=2)
    fitted = fine_tune(taught(joined([others, own])), own, "b", Settings(), seed=0)
    copies = taught(joined([others] + [own] * int(OWN_WEIGHT)))
    for one, other in zip(fitted.solution("b"), copies.solution("b"), strict=True):
        torch.testing.assert_close(one, other)


def test_an_image_counts_as_a_trial_of_the_other_hand():
    of = trials(50)
    made = taught(of, mirrors=True)
    places, outputs = made.places["b"]
    across = of.signals.reshape(50, -1)[:, places].reshape(of.signals.shape)
    images = BranchTrials(across, outputs.numpy()[of.labels], LABELS, of.persons)
    both = taught(joined([of, images]))  # of labels without an image
    for one, other in zip(made.solution("b"), both.solution("b"), strict=True):
        torch.testing.assert_close(one, other)


def test_a_label_that_nobody_has_is_never_said():
    made = taught(trials(40, there=[0, 2]))
    assert 1 not in predict(made, trials(200, seed=5).signals, "b").argmax(1)


def test_a_person_says_one_short_vector_and_no_other_is_moved_by_it():
    of = trials(40, persons=3)
    vectors = dict(zip(dict.fromkeys(of.persons.tolist()), person_vectors(of), strict=True))
    chosen = of.persons == "d/1"
    x = of.signals[chosen].reshape(chosen.sum(), -1).astype(np.float64)
    means = np.stack([x[of.labels[chosen] == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(vectors["d/1"], means - means.mean(0))
    left = of.persons != "d/1"
    without = BranchTrials(of.signals[left], of.labels[left], LABELS, of.persons[left])
    norm = 0.5
    assert all(float(v.norm()) > norm for v in vectors.values())
    change = taught_means(of, norm) - taught_means(without, norm)
    torch.testing.assert_close(change, clipped(vectors["d/1"], norm))
    assert float(change.norm()) == pytest.approx(norm)


def taught_means(of, norm):
    made = network(body=MEANS)
    train_round(made, {"b": of}, Settings(person_norm=norm), seed=0)
    return made.common_state()["directions"]


def test_clipping_by_hand():
    assert clipped(torch.tensor([3.0, 4.0]), 1.0).tolist() == pytest.approx([0.6, 0.8])
    assert clipped(torch.tensor([3.0, 4.0]), 6.0).tolist() == [3.0, 4.0]
    assert clipped(torch.zeros(2), 1.0).tolist() == [0.0, 0.0]


def test_a_person_with_one_label_says_nothing():
    of = trials(10, there=[1])
    assert all(not v.any() for v in person_vectors(of))


def test_means_decode_too_and_their_scatter_stays():
    of = trials(3000)
    made = taught(of, body=MEANS)
    assert set(made.common_state()) == {"directions"} and set(made.private_state()) == {"within"}
    assert (predict(made, trials(500, seed=8).signals, "b").argmax(1) == trials(500, seed=8).labels).mean() > 0.45


def test_branches_of_other_lists_of_labels_are_refused():
    a = Architecture(200, 100.0, "common-space", BAND, electrodes=THREE, body=SUMS)
    with pytest.raises(ValueError, match="one list of labels"):
        a.build({"b": Branch(3, 2), "c": Branch(3, 3)})


def test_a_message_is_small():
    """At eleven electrodes with ten views: under 2 MB in words of 8 bytes; means alone under 20 kB."""
    a = Architecture(416, 128.0, "common-space", (4.0, 38.0), electrodes=ELECTRODES["motor11"], body=SUMS)
    for body, most in ((SUMS, 2e6), (MEANS, 20e3)):
        made = a.__class__(**{**vars(a), "body": body}).build({"b": Branch(11, 2)})
        assert sum(8 * value.numel() for value in made.common_state().values()) < most


def test_the_decoder_is_solved_once_and_anew_when_the_sums_change(monkeypatch):
    rng = np.random.default_rng(0)
    names = ("left_hand", "right_hand")
    made = Summed("sums", 1, ("C3", "Cz", "C4"), {"b": Branch(3, 2, names)})
    of = BranchTrials(rng.standard_normal((12, 1, 6)).astype(np.float32), np.arange(12) % 2, names)
    train_round(made, {"b": of}, Settings(), seed=0)
    solved, plain = [], Summed.solution
    monkeypatch.setattr(Summed, "solution", lambda self, branch: solved.append(1) or plain(self, branch))
    first = [predict(made, of.signals[:1], "b") for _ in range(3)]
    assert len(solved) == 1 and np.array_equal(first[0], first[2])
    tuned = fine_tune(made, of, "b", Settings(), seed=0)
    own = predict(tuned, of.signals[:1], "b")
    assert len(solved) == 2 and not np.array_equal(own, first[0])
    fresh = Summed("sums", 1, ("C3", "Cz", "C4"), {"b": Branch(3, 2, names)})
    fresh.load_common(tuned.common_state())
    assert np.array_equal(predict(fresh, of.signals[:1], "b"), own)
    made.load_common(tuned.common_state())
    assert np.array_equal(predict(made, of.signals[:1], "b"), own)
    assert not any("solved" in name for name in made.state_dict())
