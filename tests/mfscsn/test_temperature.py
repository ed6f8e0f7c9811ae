import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mfscsn.temperature import fitted_temperature, tempered


def drawn(rng, n, spread=2.0):
    """Probabilities that are right as often as they say, and labels drawn from them."""
    logits = spread * rng.standard_normal((n, 3))
    told = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return told, np.array([rng.choice(3, p=row) for row in told])


def test_a_temperature_by_hand():
    """At 2, the odds 9 to 1 become 3 to 1."""
    assert np.allclose(tempered(np.array([[0.9, 0.1]]), 2.0), [[0.75, 0.25]])


@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_rows_stay_probabilities_and_the_likeliest_stays(temperature, seed):
    told, _ = drawn(np.random.default_rng(seed), 5)
    scaled = tempered(told, temperature)
    assert np.allclose(scaled.sum(axis=1), 1) and (scaled >= 0).all()
    assert (scaled.argmax(axis=1) == told.argmax(axis=1)).all()


def test_who_is_three_times_too_sure_is_found_out():
    told, labels = drawn(np.random.default_rng(0), 4000)
    assert abs(fitted_temperature([(told, labels)]) - 1) < 0.1
    assert abs(fitted_temperature([(tempered(told, 1 / 3), labels)]) - 3) < 0.3


def test_parts_may_differ_in_their_outputs():
    rng = np.random.default_rng(1)
    three, labels = drawn(rng, 2000)
    two = np.stack([rng.random(2000), np.zeros(2000)], axis=1)
    two[:, 1] = 1 - two[:, 0]
    drawn_of_two = (rng.random(2000) < two[:, 1]).astype(int)
    parts = [(tempered(three, 0.5), labels), (tempered(two, 0.5), drawn_of_two)]
    assert abs(fitted_temperature(parts) - 2) < 0.2


def test_few_trials_that_were_all_told_right_are_no_proof():
    five = np.tile([0.8, 0.2], (5, 1)), np.zeros(5, int)
    assert 0.3 < fitted_temperature([five]) < 1
    assert fitted_temperature([]) == 1.0


def test_a_probability_of_nothing_costs_much_but_not_all():
    """A label that was told impossible: the temperature rises, and stays finite."""
    told = np.array([[1.0, 0.0]] * 10)
    assert 1 < fitted_temperature([(told, np.array([0] * 8 + [1] * 2))]) <= 20.01
