"""`mfscsn privacy plan` as typed."""

import re

import pytest
from conftest import mfscsn, refused

from federation.privacy.ledger import epsilon_of


def test_the_third_is_solved_for_and_the_three_fit(tmp_path):
    found = {}
    for asked in (
        ("--noise-multiplier", 2, "--rounds", 20),
        ("--epsilon", 5, "--rounds", 20),
        ("--epsilon", 5, "--noise-multiplier", 2),
    ):
        code, out, err = mfscsn("privacy", "plan", "--trials", 300, "--batch-size", 64, *asked, cwd=tmp_path)
        assert code == 0, err
        assert "5 steps a round, a trial is in each with probability 0.2" in out and "not a person" in out
        noise, rounds, epsilon = re.search(r"noise multiplier (\S+), (\d+) rounds: epsilon (\S+) at", out).groups()
        expected = epsilon_of([(float(noise), 0.2, 5 * int(rounds))], 1e-5)
        assert float(epsilon) == pytest.approx(expected, rel=1e-2)
        found[asked[::2]] = float(epsilon)
    assert (
        found["--epsilon", "--rounds"] == pytest.approx(5, rel=0.01) and found["--epsilon", "--noise-multiplier"] <= 5
    )


def test_a_plan_without_two_of_three_is_refused(tmp_path):
    words = ("privacy", "plan", "--trials", 300)
    assert "give two of --noise-multiplier, --rounds and --epsilon" in refused(
        *words, "--noise-multiplier", 1, cwd=tmp_path
    )
    assert "expected a positive number, found -1" in refused(
        *words, "--noise-multiplier", -1, "--rounds", 3, cwd=tmp_path
    )
    assert "--delta: 0.1 lets one of 300" in refused(
        *words, "--noise-multiplier", 1, "--rounds", 3, "--delta", 0.1, cwd=tmp_path
    )


def test_a_person_in_one_message(tmp_path):
    code, out, _ = mfscsn("privacy", "plan", "--person", "--epsilon", 8, "--rounds", 1, cwd=tmp_path)
    assert code == 0 and "noise multiplier 0.63" in out and "1 message: epsilon 8" in out and "one person" in out
    for words in ((), ("--person", "--trials", 30)):
        line = refused("privacy", "plan", "--epsilon", 8, "--rounds", 1, *words, cwd=tmp_path)
        assert "give --trials, how many train at the site, or --person" in line
