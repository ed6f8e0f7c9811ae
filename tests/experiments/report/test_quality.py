import numpy as np
import pytest

from data.trials import Trials
from experiments.report.quality import mu_difference

SFREQ = 128.0


def imagined(hands, at_c3, at_c4, channels=("C3", "Cz", "C4"), seed=0):
    """A 10 Hz rhythm that is as strong at C3 and C4 as given for each trial, in noise."""
    rng, times = np.random.default_rng(seed), np.arange(256) / SFREQ
    signals = rng.standard_normal((len(hands), 3, 256))
    for k, strengths in enumerate(zip(at_c3, at_c4, strict=True)):
        for place, strength in zip((0, 2), strengths, strict=True):
            signals[k, place] += strength * np.sin(2 * np.pi * 10 * times + rng.uniform(0, 6))
    one = np.array(["1"] * len(hands))
    return Trials(signals.astype(np.float32), np.array(hands), one, one, one, tuple(channels), SFREQ)


def test_the_rhythm_falls_over_the_other_side():
    hands = ["left_hand", "right_hand"] * 20
    weak, strong = (
        np.where(np.array(hands) == "right_hand", 1.0, 3.0),
        np.where(np.array(hands) == "left_hand", 1.0, 3.0),
    )
    assert mu_difference(imagined(hands, weak, strong)) > 3
    assert mu_difference(imagined(hands, strong, weak)) < -3
    assert abs(mu_difference(imagined(hands, np.full(40, 2.0), np.full(40, 2.0)))) < 0.8


@pytest.mark.parametrize(
    ("hands", "channels"),
    [
        (["left_hand", "right_hand"] * 10, ("C3", "Cz", "Pz")),
        (["left_hand"] * 16 + ["right_hand"] * 4, ("C3", "Cz", "C4")),
        (["feet", "right_hand"] * 10, ("C3", "Cz", "C4")),
    ],
)
def test_where_it_cannot_be_told(hands, channels):
    assert mu_difference(imagined(hands, np.ones(20), np.ones(20), channels)) is None
