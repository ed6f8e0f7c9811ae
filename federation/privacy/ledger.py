"""The ledger of a site's privacy: what its updates have told about a single trial so far, and what they may tell.

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
from federation.tables import Table, parse_table

UNIT = "one trial, added or removed; not a person: of k trials in training, epsilon is up to k times as much"
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
        When the file is damaged, or was kept for another delta.
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
        else:
            self.account = Account(unit=UNIT, budget=privacy.epsilon, delta=privacy.delta)

    @property
    def epsilon(self) -> float:
        """What all rounds so far have spent."""
        return self.account.epsilon

    def noise_multiplier_of(self, run: str, rounds: int, steps: int, sample_rate: float) -> float:
        """Return the noise multiplier of a run: the site's or, where it names none, the least for `rounds` rounds.

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
        return least_noise_multiplier(
            self.privacy.epsilon, self.privacy.delta, sample_rate, rounds * steps, self._spent()
        )

    def charge(self, run: str, number: int, noise_multiplier: float, steps: int, sample_rate: float) -> float:
        """Write down a round that is about to be trained; return epsilon after it.

        Raises
        ------
        BudgetSpent
            When the round would pass the budget; nothing is then written.
        """
        after = epsilon_of([*self._spent(), (noise_multiplier, sample_rate, steps)], self.privacy.delta)
        if after > self.privacy.epsilon:
            raise BudgetSpent(
                f"round {number} would bring epsilon to {after:.3g}, the site allows {self.privacy.epsilon:g}"
                f" (delta {self.privacy.delta:g}); {self.epsilon:.3g} is spent"
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
            unit=UNIT,
            budget=self.privacy.epsilon,
            delta=self.privacy.delta,
            epsilon=after,
            rounds=[*self.account.rounds, entry],
        )
        with replaced(self.path) as out:
            out.write(json.dumps(self.account.model_dump(), indent=1).encode())
        return after

    def _spent(self) -> list[Spent]:
        return [(entry.noise_multiplier, entry.sample_rate, entry.steps) for entry in self.account.rounds]


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
