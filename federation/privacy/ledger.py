"""The ledger of a site's privacy: what has been told so far of a trial or, in one message, a person, and what may be.

``privacy.json`` lies at the site and outlives runs. Each round is written down **before** it is trained: a round that
is broken off, or trained again, counts.

References
----------
Renyi differential privacy of noisy sums over drawn trials: Mironov, Talwar, Zhang 2019, arXiv:1908.10530; counted by
Opacus.
"""

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from data.errors import InputError
from data.files import replaced
from federation.contract import Privacy
from federation.site import SUMMED
from federation.tables import Table, parse_table, read_toml

UNIT = "one trial, added or removed; not a person: of k trials in training, epsilon is up to k times as much"
PERSON = "one person, added or removed with all its trials, of one data set"  # of one message
LEDGER = "privacy.json"
LARGEST_NOISE_MULTIPLIER = 1e4

Spent = tuple[float, float, int]  # noise multiplier, sample rate, steps


class BudgetSpent(InputError):
    """A further round would pass what the site allows."""


class Entry(Table):
    """A round as it was counted: its noise, how probably a trial was in a step, its steps; epsilon after it."""

    run: str
    round: int
    noise_multiplier: float
    sample_rate: float
    steps: int
    epsilon: float


class Account(Table):
    """What ``privacy.json`` holds."""

    unit: str
    budget: float
    delta: float
    epsilon: float = 0.0
    unprotected_runs: int = 0
    rounds: list[Entry] = Field([])


class Ledger:
    """A site's ledger, opened.

    Parameters
    ----------
    path : Path
        Of ``privacy.json``; begun when missing.
    privacy : Privacy
        The site's budget.

    Raises
    ------
    InputError
        When the file is damaged, was kept for another delta, or is gone though the site has trained under it.
    """

    def __init__(self, path: Path, privacy: Privacy):
        self.path, self.privacy = path, privacy
        if path.exists():
            try:
                document = json.loads(path.read_text())
            except ValueError as error:
                raise InputError(
                    f"{path}: damaged ({error}); restore it: without it nobody knows what is left"
                ) from error
            self.account = parse_table(Account, document, str(path))
            if self.account.delta != privacy.delta:
                raise InputError(
                    f"{path}: kept for delta = {self.account.delta:g}, the site's file says {privacy.delta:g}; keep one"
                )
            if self.account.unit != self.unit:
                raise InputError(
                    f"{path}: counts {self.account.unit.partition(',')[0]}, and this contract asks for"
                    f" {self.unit.partition(',')[0]}; the two do not add up: take part with another site folder"
                )
        else:
            unprotected = _runs_before(path)
            self.account = Account(
                unit=self.unit, budget=privacy.epsilon, delta=privacy.delta, unprotected_runs=unprotected
            )

    @property
    def unit(self) -> str:
        """Whose privacy is counted: a trial's or, in one message, a person's."""
        return PERSON if self.privacy.n_trials is None else UNIT

    @property
    def share(self) -> float:
        """What one run may spend at most."""
        return self.privacy.share * self.privacy.epsilon

    @property
    def epsilon(self) -> float:
        """What all rounds so far have spent."""
        return self.account.epsilon

    def noise_multiplier_of(self, run: str, rounds: int, steps: int, sample_rate: float) -> float:
        """Return the noise multiplier of a run: the site's or, where it names none, the least for `rounds` rounds.

        With it, the run stays within its share, and all runs together within the budget.

        Raises
        ------
        BudgetSpent
            When no noise is enough for what is left of the budget.
        """
        if self.privacy.noise_multiplier is not None:
            return self.privacy.noise_multiplier
        for entry in self.account.rounds:
            if entry.run == run:
                return entry.noise_multiplier
        needed = rounds * steps
        alone = least_noise_multiplier(self.share, self.privacy.delta, sample_rate, needed)
        if epsilon_of([*self._spent(), (alone, sample_rate, needed)], self.privacy.delta) <= self.privacy.epsilon:
            return alone
        return least_noise_multiplier(self.privacy.epsilon, self.privacy.delta, sample_rate, needed, self._spent())

    def charge(self, run: str, number: int, noise_multiplier: float, steps: int, sample_rate: float) -> float:
        """Write down a round that is about to be trained; return epsilon after it.

        Raises
        ------
        BudgetSpent
            When the round would pass the budget, or the run's share of it; nothing is then written.
        """
        now = (noise_multiplier, sample_rate, steps)
        after = epsilon_of([*self._spent(), now], self.privacy.delta)
        if after > self.privacy.epsilon:
            raise BudgetSpent(
                f"round {number} would bring epsilon to {after:.3g}, the site allows {self.privacy.epsilon:g}"
                f" (delta {self.privacy.delta:g}); {self.epsilon:.3g} is spent"
            )
        of_run = epsilon_of([*self._spent(run), now], self.privacy.delta)
        if of_run > self.share:
            raise BudgetSpent(
                f"round {number} would bring this run's epsilon to {of_run:.3g}, a run may take {self.share:g}"
                f" (share {self.privacy.share:g} of {self.privacy.epsilon:g})"
            )
        entry = Entry(
            run=run,
            round=number,
            noise_multiplier=noise_multiplier,
            sample_rate=sample_rate,
            steps=steps,
            epsilon=after,
        )
        self.account = Account(
            unit=self.unit,
            budget=self.privacy.epsilon,
            delta=self.privacy.delta,
            epsilon=after,
            unprotected_runs=self.account.unprotected_runs,
            rounds=[*self.account.rounds, entry],
        )
        with replaced(self.path) as out:
            out.write(json.dumps(self.account.model_dump(), indent=1).encode())
        return after

    def plan(self, rounds: int, steps: int, sample_rate: float) -> str:
        """Say before a run what it may take, and how much noise that means."""
        noise = self.noise_multiplier_of("", rounds, steps, sample_rate)
        alone = self.privacy.noise_multiplier or least_noise_multiplier(
            self.share, self.privacy.delta, sample_rate, rounds * steps
        )
        less = f", for less than a share is left ({alone:.3g} would do for a share)" if noise > 1.01 * alone else ""
        return (
            f"a run of {rounds} rounds may take epsilon {self.share:.3g} at most (share {self.privacy.share:g}), with"
            f" noise multiplier {noise:.3g}{less}"
        )

    def _spent(self, run: str | None = None) -> list[Spent]:
        rounds = [entry for entry in self.account.rounds if run in (None, entry.run)]
        return [(entry.noise_multiplier, entry.sample_rate, entry.steps) for entry in rounds]


def _runs_before(path: Path) -> int:
    """Count the runs that a site has trained in without protection before its ledger begins.

    Raises
    ------
    InputError
        When it has trained in one with protection: then the ledger is gone, and nobody knows what is left.
    """
    kept = [*path.parent.glob("runs/*/sites/*/private*.safetensors"), *path.parent.glob(f"runs/*/sites/*/{SUMMED}")]
    trained = {file.parents[2] for file in kept}  # sums are removed when they are forgotten; that they were stays
    protected = [run for run in trained if read_toml(run / "federation.toml")["site"][0].get("privacy")]
    if protected:
        raise InputError(
            f"{path}: missing, though this site has trained under differential privacy ({protected[0].name}); restore"
            " it from your backup: without it nobody knows what is left of the budget"
        )
    return len(trained)


def epsilon_of(spent: Sequence[Spent], delta: float) -> float:
    """Count the epsilon of all steps together at `delta`.

    Parameters
    ----------
    spent : sequence of (noise multiplier, sample rate, steps)
        Deviation of the noise over the greatest length of a gradient; the probability with which a trial is in a step.
    """
    if not spent:
        return 0.0
    if any(noise_multiplier <= 0 for noise_multiplier, _, _ in spent):
        return math.inf
    from opacus.accountants import RDPAccountant

    alike: dict[tuple[float, float], int] = {}  # rounds of a kind are counted together: each kind takes a while
    for noise_multiplier, sample_rate, steps in spent:
        alike[noise_multiplier, sample_rate] = alike.get((noise_multiplier, sample_rate), 0) + steps
    accountant: Any = RDPAccountant()
    accountant.history = [(*kind, steps) for kind, steps in alike.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another order may be a little tighter
        return float(accountant.get_epsilon(delta=delta))


def least_noise_multiplier(
    epsilon: float, delta: float, sample_rate: float, steps: int, spent: Sequence[Spent] = ()
) -> float:
    """Find the least noise multiplier, to a thousandth, with which `steps` more steps stay within `epsilon`.

    Raises
    ------
    BudgetSpent
        When none does.
    """
    low, high = 0.0, 1.0

    def fits(noise_multiplier: float) -> bool:
        return epsilon_of([*spent, (noise_multiplier, sample_rate, steps)], delta) <= epsilon

    while not fits(high):
        low, high = high, 2 * high
        if high > LARGEST_NOISE_MULTIPLIER:
            raise BudgetSpent(f"no noise brings {steps} more steps within epsilon {epsilon:g} at delta {delta:g}")
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def most_rounds(epsilon: float, delta: float, sample_rate: float, steps: int, noise_multiplier: float) -> int:
    """Find how many rounds of `steps` steps stay within `epsilon`; 0 when not even one does."""

    def fits(rounds: int) -> bool:
        return epsilon_of([(noise_multiplier, sample_rate, rounds * steps)], delta) <= epsilon

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
