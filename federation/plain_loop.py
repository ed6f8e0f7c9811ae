"""A federation without Flower's transport: all sites train in this process, round by round, and are averaged.

A simulation through Flower's apps gives the same layers (a test).
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from federation.contract import ONE_MESSAGE, Federation, Privacy
from federation.privacy.ledger import least_noise_multiplier
from federation.privacy.persons import with_noise
from federation.privacy.private_training import Mechanism, steps_of_round, train_round_privately
from federation.site_network import site_network, site_seed
from federation.site_trials import SiteTrials
from mfscsn.branch import BranchTrials
from mfscsn.settings import Settings
from mfscsn.split import SplitModule
from mfscsn.training import derive_seed, rounds_of, train_round


def train_together(
    federation: Federation,
    store: Path,
    change: Callable[[SplitModule], None] = lambda network: None,
    trials_of: Callable[[SiteTrials], dict[str, BranchTrials]] = SiteTrials.training,
    **settings_of_method: Any,
) -> tuple[dict[str, SplitModule], dict[str, float]]:
    """Train all sites round by round in this process; give each site's network and its CPU seconds."""
    contract = federation.contract
    settings = replace(federation.settings, **settings_of_method)
    opened = {site.name: SiteTrials(site, contract, store) for site in federation.site}
    trials = {name: trials_of(of_site) for name, of_site in opened.items()}
    networks: dict[str, SplitModule] = {}
    for name, of_site in opened.items():
        networks[name] = site_network(federation, of_site)
        change(networks[name])
    states: dict[str, dict[str, Tensor] | None] = dict.fromkeys(networks)
    seconds = dict.fromkeys(networks, 0.0)
    weights = {
        name: 1.0 if contract.weighting == "equal" else float(sum(len(t.labels) for t in of_site.values()))
        for name, of_site in trials.items()
    }
    seeds = {site.name: site_seed(federation, site) for site in federation.site}
    mechanisms = {site.name: _mechanism(site.privacy, settings) for site in federation.site}
    for number, now in rounds_of(settings):
        for name in sorted(networks):
            began = time.process_time()
            mine, state = trials[name], states[name]
            if (noise := mechanisms[name]) is not None:
                _, states[name] = train_round_privately(networks[name], mine, now, noise, optimiser_state=state)
            else:
                seed = derive_seed(seeds[name], name, number)
                _, states[name] = train_round(networks[name], mine, now, seed=seed, optimiser_state=state)
            if contract.noise_multiplier:
                with_noise(networks[name], contract)
            seconds[name] += time.process_time() - began
        whole = 1.0 if contract.strategy == ONE_MESSAGE else sum(weights.values())
        layers = [(weights[name] / whole, networks[name].common_state()) for name in sorted(networks)]
        mean = {
            key: sum((part * state[key] for part, state in layers[1:]), layers[0][0] * layers[0][1][key])
            for key in layers[0][1]
        }
        for network in networks.values():
            network.load_common(mean)
    return networks, seconds


def _mechanism(privacy: Privacy | None, settings: Settings) -> Mechanism | None:
    """Return the noise of a site that has privacy of its trials, as its ledger would choose it; here nobody counts."""
    if privacy is None or privacy.n_trials is None:
        return None
    steps, rate = steps_of_round(privacy.n_trials, settings)
    noise = privacy.noise_multiplier or least_noise_multiplier(
        privacy.share * privacy.epsilon, privacy.delta, rate, settings.rounds * steps
    )
    return Mechanism(noise, privacy.max_grad_norm, privacy.n_trials)
