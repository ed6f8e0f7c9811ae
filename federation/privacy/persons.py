"""Differential privacy of a whole person in one message: each site's share of the noise, in whole numbers.

A person says one vector, clipped to `Contract.person_norm` (`mfscsn.sums.person_vectors`), of its own trials alone. So
the sites' sum moves by no more than that length when a person joins or leaves, with all its trials. The sum must hold
noise of deviation `Contract.noise_multiplier` times that length, and no site may hold it alone: each adds a share, so
large that the promise stands as long as `min_sites` are summed, though a third of them add none, or tell theirs.

Numbers travel as whole ones (`federation.privacy.secagg`), so the noise is whole too: the discrete Gaussian, whose
shares add up to the whole within far less than a level. A float's last digits would tell what was added.

References
----------
Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy", NeurIPS: it costs what the Gaussian
does, as zero-concentrated privacy. Shares that add up: Kairouz, Liu, Steinke 2021, "The distributed discrete Gaussian
mechanism", ICML. Draws: OpenDP.
"""

from pathlib import Path

import torch
from torch import Tensor

from data.errors import InputError
from data.files import locked
from federation.contract import Contract, Privacy, Site
from federation.privacy.ledger import Ledger, epsilon_of
from federation.privacy.secagg import OF_SUMS
from mfscsn.split import SplitModule

WITHOUT = 3  # one site in so many may add no noise, or tell its own


def n_honest(min_sites: int) -> int:
    """Return how many sites must add noise, of the fewest that are summed."""
    return min_sites - min_sites // WITHOUT


def share_deviation(contract: Contract, n_numbers: int) -> float:
    """Return the deviation of one site's noise, in levels of the secure sum.

    Parameters
    ----------
    contract : Contract
        With `noise_multiplier`, `person_norm` and `min_sites`.
    n_numbers : int
        In the message: rounding each to a level moves a sum by half a level at most, with a person and without.
    """
    assert contract.min_sites is not None
    length = contract.person_norm / OF_SUMS.unit + n_numbers**0.5
    return float(contract.noise_multiplier * length / n_honest(contract.min_sites) ** 0.5)


def with_share(directions: Tensor, contract: Contract) -> Tensor:
    """Round a site's sum to whole levels, and add its share of the noise; no two calls are alike."""
    import opendp.prelude as dp

    levels = torch.round(directions / OF_SUMS.unit).long().flatten()
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    draw = dp.m.make_gaussian(*space, scale=share_deviation(contract, levels.numel()))
    return (torch.tensor(draw(levels.tolist()), dtype=torch.float64) * OF_SUMS.unit).reshape(directions.shape)


def with_noise(network: SplitModule, contract: Contract) -> None:
    """Add a site's share of the noise to what is common of its network, in place."""
    network.load_common({name: with_share(values, contract) for name, values in network.common_state().items()})


def plan(ledger: Ledger, contract: Contract) -> str:
    """Say what the message costs, and how many there may be."""
    cost = epsilon_of([(contract.noise_multiplier, 1.0, 1)], ledger.privacy.delta)
    small = f", more than the {ledger.share:.3g} that a run may take: none will leave" if cost > ledger.share else ""
    return (
        f"one message tells at most epsilon {cost:.3g} of a person (noise multiplier {contract.noise_multiplier:g} over"
        f" length {contract.person_norm:g}, of {n_honest(contract.min_sites or 1)} of min_sites ="
        f" {contract.min_sites} sites){small}"
    )


def check_affordable(site: Site, contract: Contract) -> None:
    """Raise InputError where a site's budget is below what one message costs: it would send none."""
    privacy = site.privacy
    if privacy is None or not contract.noise_multiplier:
        return
    cost, share = epsilon_of([(contract.noise_multiplier, 1.0, 1)], privacy.delta), privacy.share * privacy.epsilon
    if cost > share:
        raise InputError(
            f"site {site.name!r}: one message costs epsilon {cost:.3g}, and a run may take {share:.3g} (share"
            f" {privacy.share:g} of {privacy.epsilon:g}); raise privacy.epsilon, or contract.noise_multiplier"
        )


def charge(path: Path, privacy: Privacy, contract: Contract, run: str, number: int) -> float:
    """Write a message down in the ledger at `path` before it is made; return epsilon after it.

    Raises
    ------
    BudgetSpent
        When it would pass the site's budget, or a run's share of it.
    """
    with locked(path.parent, "privacy", f"{path}: another process is writing to it", wait=60.0):
        return Ledger(path, privacy).charge(run, number, contract.noise_multiplier, steps=1, sample_rate=1.0)
