"""Epsilon against an independent formula; the budget is never passed; the ledger outlives what happens."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant

from data.errors import InputError
from federation.contract import Privacy
from federation.privacy.ledger import BudgetSpent, Ledger, epsilon_of, least_noise_multiplier, most_rounds


def epsilon_by_formula(noise: float, rate: float, steps: int, delta: float) -> float:
    """Mironov, Talwar, Zhang 2019, section 3.3, for whole orders; to epsilon after Balle et al. 2020, theorem 21."""

    def renyi(order: int) -> float:
        terms = [
            math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
            + k * math.log(rate) + (order - k) * math.log1p(-rate) + (k * k - k) / (2 * noise**2)
            for k in range(order + 1)
        ]  # fmt: skip
        largest = max(terms)
        return (largest + math.log(sum(math.exp(t - largest) for t in terms))) / (order - 1)

    return min(
        steps * renyi(order) + math.log1p(-1 / order) - math.log(delta * order) / (order - 1) for order in range(2, 256)
    )


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(1.0, 0.1, 100), (2.0, 0.25, 200), (4.0, 64 / 300, 234), (1.2, 0.0128, 1000)],
)
def test_epsilon_is_that_of_an_independent_formula_and_of_opacus(noise, rate, steps):
    ours = epsilon_of([(noise, rate, steps)], 1e-5)
    accountant = RDPAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert ours == pytest.approx(epsilon_by_formula(noise, rate, steps, 1e-5), rel=0.01)


def test_epsilon_is_never_below_what_a_tighter_count_gives():
    for noise, rate, steps in ((1.0, 0.2, 50), (4.0, 0.2, 200)):
        tight = PRVAccountant()
        tight.history = [(noise, rate, steps)]
        loose = epsilon_of([(noise, rate, steps)], 1e-5)
        assert 0.85 * loose < tight.get_epsilon(1e-5) < loose


def test_full_batches_are_the_plain_gaussian_mechanism():
    """Every trial in every step: Renyi divergence is order * steps / (2 noise^2)."""
    expected = min(
        a * 10 / (2 * 25) + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1) for a in [k / 10 for k in range(11, 640)]
    )
    assert epsilon_of([(5.0, 1.0, 10)], 1e-5) == pytest.approx(expected, rel=0.01)


def test_nothing_spent_is_nothing_told_and_no_noise_tells_all():
    assert epsilon_of([], 1e-5) == 0 and epsilon_of([(0.0, 0.1, 1)], 1e-5) == math.inf


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 20), st.sampled_from([0.05, 0.25, 1.0]), st.integers(1, 400))
def test_the_least_noise_fits_and_less_does_not(epsilon, rate, steps):
    noise = least_noise_multiplier(epsilon, 1e-5, rate, steps)
    assert epsilon_of([(noise, rate, steps)], 1e-5) <= epsilon < epsilon_of([(0.99 * noise, rate, steps)], 1e-5)


def test_the_most_rounds_fit_and_one_more_does_not():
    rounds = most_rounds(3.0, 1e-5, 0.25, 4, 2.0)
    assert epsilon_of([(2.0, 0.25, 4 * rounds)], 1e-5) <= 3.0 < epsilon_of([(2.0, 0.25, 4 * rounds + 4)], 1e-5)
    assert most_rounds(0.1, 1e-5, 1.0, 4, 0.5) == 0


def test_rounds_of_all_runs_add_up_and_the_budget_is_never_passed(tmp_path):
    privacy = Privacy(epsilon=3.0, n_trials=24, share=1.0, noise_multiplier=2.0)
    number, runs = 0, iter("ab" * 500)
    with pytest.raises(BudgetSpent, match=r"would bring epsilon to 3\.\d+, the site allows 3 \(delta 1e-05\)"):
        for number, run in enumerate(runs):
            before = (tmp_path / "privacy.json").read_bytes() if number else b""
            Ledger(tmp_path / "privacy.json", privacy).charge(run, number, 2.0, 4, 0.25)
    assert number == most_rounds(3.0, 1e-5, 0.25, 4, 2.0)
    assert (tmp_path / "privacy.json").read_bytes() == before
    kept = json.loads((tmp_path / "privacy.json").read_text())
    assert len(kept["rounds"]) == number and kept["epsilon"] == kept["rounds"][-1]["epsilon"] <= 3.0
    assert kept["epsilon"] == pytest.approx(epsilon_of([(2.0, 0.25, 4 * number)], 1e-5))
    assert "trial" in kept["unit"] and "not a person" in kept["unit"]


def test_noise_is_found_once_a_run_and_out_of_what_is_left(tmp_path):
    ledger = Ledger(tmp_path / "privacy.json", Privacy(epsilon=4.0, n_trials=24, share=1.0))
    first = ledger.noise_multiplier_of("a", 10, 4, 0.25)
    for number in range(1, 6):
        ledger.charge("a", number, first, 4, 0.25)
    assert ledger.noise_multiplier_of("a", 10, 4, 0.25) == first
    second = ledger.noise_multiplier_of("b", 10, 4, 0.25)
    assert second > first  # half is spent
    for number in range(1, 11):
        ledger.charge("b", number, second, 4, 0.25)
    assert 3.9 < ledger.epsilon <= 4.0
    with pytest.raises(BudgetSpent, match="no noise brings 40 more steps within epsilon 3"):
        Ledger(tmp_path / "privacy.json", Privacy(epsilon=3.0, n_trials=24, share=1.0)).noise_multiplier_of(
            "c", 10, 4, 0.25
        )


def test_a_damaged_ledger_is_not_begun_anew(tmp_path):
    path = tmp_path / "privacy.json"
    path.write_text('{"unit"')
    with pytest.raises(InputError, match="damaged"):
        Ledger(path, Privacy(epsilon=1.0, n_trials=24))
    path.unlink()
    Ledger(path, Privacy(epsilon=10.0, n_trials=24)).charge("a", 1, 2.0, 4, 0.25)
    with pytest.raises(InputError, match="kept for delta = 1e-05"):
        Ledger(path, Privacy(epsilon=10.0, n_trials=24, delta=1e-6))


def test_a_run_of_one_round_leaves_budget_for_the_runs_after_it(tmp_path):
    """It took nearly all of it, and the next run of twenty rounds silently had a noise of thirty."""
    ledger = Ledger(tmp_path / "privacy.json", Privacy(epsilon=8.0, n_trials=24))
    assert "a run of 1 rounds may take epsilon 2 at most (share 0.25), with noise multiplier" in ledger.plan(1, 4, 0.25)
    ledger.charge("a", 1, ledger.noise_multiplier_of("a", 1, 4, 0.25), 4, 0.25)
    assert ledger.epsilon <= 2.0
    with pytest.raises(BudgetSpent, match=r"this run's epsilon to \d.*, a run may take 2 \(share 0.25 of 8\)"):
        for _ in range(50):
            ledger.charge("a", 2, ledger.noise_multiplier_of("a", 1, 4, 0.25), 4, 0.25)
    alone = Ledger(tmp_path / "new.json", Privacy(epsilon=8.0, n_trials=24)).noise_multiplier_of("b", 20, 4, 0.25)
    assert ledger.noise_multiplier_of("b", 20, 4, 0.25) == pytest.approx(alone)
    for run in map(str, range(30)):  # what is left ends, and a run is told before
        noise = ledger.noise_multiplier_of(run, 20, 4, 0.25)
        if noise > 1.01 * alone:
            break
        ledger.charge(run, 1, noise, 80, 0.25)
    assert 6.0 < ledger.epsilon <= 8.0 and "less than a share is left" in ledger.plan(20, 4, 0.25)


def earlier_run(home, privacy):
    run = home / "runs" / "0"
    (run / "sites" / "north").mkdir(parents=True)
    (run / "sites" / "north" / "private.safetensors").touch()
    (run / "federation.toml").write_text(f'[[site]]\nname = "north"\n{privacy}')


def test_a_ledger_that_is_gone_does_not_begin_at_nothing(tmp_path):
    earlier_run(tmp_path, "privacy = { epsilon = 8.0, n_trials = 24 }\n")
    with pytest.raises(InputError, match=r"privacy.json: missing, though this site has trained under differential"):
        Ledger(tmp_path / "privacy.json", Privacy(epsilon=8.0, n_trials=24))


def test_runs_before_a_ledger_are_counted_as_unprotected(tmp_path):
    earlier_run(tmp_path, "")
    ledger = Ledger(tmp_path / "privacy.json", Privacy(epsilon=8.0, n_trials=24))
    ledger.charge("a", 1, 20.0, 4, 0.25)
    assert Ledger(tmp_path / "privacy.json", Privacy(epsilon=8.0, n_trials=24)).account.unprotected_runs == 1
