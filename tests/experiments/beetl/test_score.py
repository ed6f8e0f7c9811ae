"""The organisers' formula, by hand and on their own files."""

import json

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from data.beetl_answer import read_codes
from experiments.beetl.score import points, score

needs_shared = pytest.mark.skipif(not (SHARED / "beetl").is_dir(), reason="../shared/beetl is not here")
TRUTH = np.tile(np.repeat([0, 1, 2], [50, 50, 100]), 5)


def test_by_hand():
    """Two classes: one of two trials of class 0 earns 25, both of class 2 earn 50."""
    assert points(np.array([0, 1, 2, 2]), np.array([0, 0, 2, 2])) == pytest.approx(75.0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_it_is_balanced_accuracy(pairs):
    answer, truth = np.array(pairs).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        expected = 100 * balanced_accuracy_score(truth, answer)
    assert points(answer, truth) == pytest.approx(expected)


@needs_shared
def test_the_organisers_example():
    example = read_codes(SHARED / "beetl/final_pred_MI_label_example.txt")
    found = score(example, read_codes(SHARED / "beetl/final_MI_label.txt"))
    assert round(found.total, 2) == 41.53
    assert {part.name: round(part.score, 2) for part in found.datasets} == {"A": 35.0, "B": 51.33}
    assert 0.6 * found.datasets[0].score + 0.4 * found.datasets[1].score == pytest.approx(found.total)
    assert found.interval[0] < found.total < found.interval[1]
    assert 4 < found.interval[1] - found.interval[0] < 8  # about 3 points to each side


def test_feet_and_right_hand_of_a_are_scored_as_other():
    """All that A answers 2 for, right hand or feet, is found under "other"; no class is called right_hand."""
    answer = np.where(TRUTH == 2, 2, 0)
    found = score(answer, TRUTH)
    a = found.datasets[0]
    assert [(c.code, c.name, c.percent) for c in a.classes] == [
        (0, "rest", 100.0),
        (1, "left_hand", 0.0),
        (2, "other", 100.0),
    ]
    assert [c.name for c in found.datasets[1].classes] == ["left_hand", "right_hand", "other"]
    assert {c.n_trials for part in found.subjects for c in part.classes} == {50, 100}


def test_an_interval_shrinks_to_a_point_where_nothing_is_left_to_chance():
    found = score(TRUTH, TRUTH)
    assert found.total == 100 and found.interval == (100.0, 100.0)


def test_intervals_repeat_and_cover():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(40):
        answer = np.where(rng.random(1000) < 0.5, TRUTH, (TRUTH + 1) % 3)  # the truth is 50
        found = score(answer, TRUTH)
        inside += found.interval[0] <= 50 <= found.interval[1]
    assert inside >= 34
    assert json.dumps(score(answer, TRUTH).interval) == json.dumps(found.interval)


def test_the_leaderboard_phase_has_other_subjects():
    found = score(TRUTH, TRUTH, "leaderboard")
    assert [(part.name, part.n_trials) for part in found.datasets] == [("A", 400), ("B", 600)]
