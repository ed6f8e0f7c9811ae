"""A site's network as a run starts it: own private weights from the site's seed, common ones from the run's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from federation.contract import Federation, Site
from federation.site_trials import SiteTrials
from mfscsn.network import Anchored, Branch, SplitModule
from mfscsn.training import derive_seed


def site_network(federation: Federation, trials: SiteTrials) -> SplitModule:
    """Make the network of a site for its prepared trials."""
    contract, site, seed = federation.contract, trials.site, federation.training.seed
    own_seed = derive_seed(site_seed(federation, site), site.name)
    network = contract.architecture.build(trials.branches(), own_seed)
    if contract.heads == "label":
        for branch, labels in trials.labels().items():
            _start_by_label(network.head(branch), labels, seed)
        if isinstance(network, Anchored):
            network.anchor_heads()
    network.load_common(server_network(federation).common_state())
    return network


def site_seed(federation: Federation, site: Site) -> int:
    """Return the seed of all that is the site's own."""
    return federation.training.seed if site.secret_seed is None else site.secret_seed


def server_network(federation: Federation) -> SplitModule:
    """Make a network for its common layers alone: their shapes depend on no headset, so the server can."""
    contract = federation.contract
    shape = Branch(len(contract.channels or [0]), len(contract.labels or [0, 1]))
    return contract.architecture.build({"server": shape}, federation.training.seed)


def _start_by_label(layer: nn.Linear, labels: tuple[str, ...], seed: int) -> None:
    """Draw a head's weights from the run's seed, each output's row from its label's name besides.

    The common layers of sites that imagine the same limb are then asked for the same thing from the first step on, and
    no site has told another what its subjects imagine.
    """
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.copy_(label_rows(layer.in_features, labels, seed))


def label_rows(n_features: int, labels: Sequence[str], seed: int) -> Tensor:
    """Draw the rows of labels ``(n_labels, n_features)`` from the run's seed and their names: the same at all sites."""
    rows = []
    for name in labels:
        drawn = torch.Generator().manual_seed(derive_seed(seed, "head", 0, name))
        rows.append(n_features**-0.5 * (2 * torch.rand(n_features, generator=drawn) - 1))
    return torch.stack(rows)
