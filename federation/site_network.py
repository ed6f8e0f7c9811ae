"""A site's network as a run starts it: own private weights from the site's seed, common ones from the run's."""

from pathlib import Path

import torch
from torch import nn

from federation.contract import Federation, Site
from federation.site_trials import branch_labels, branches
from mfscsn.network import Branch, SeparateCommonSeparate
from mfscsn.training import derive_seed


def site_network(federation: Federation, site: Site, store: Path) -> SeparateCommonSeparate:
    """Make the network of a site whose trials are prepared under `store`."""
    contract, seed = federation.contract, federation.training.seed
    shapes = branches(site, contract, store)
    network = SeparateCommonSeparate(contract.architecture, shapes, derive_seed(site_seed(federation, site), site.name))
    if contract.heads == "label":
        for branch, labels in branch_labels(site, contract, store).items():
            _start_by_label(network.heads[network.head_of[branch]], labels, seed)  # type: ignore[arg-type]
    network.load_common(server_network(federation).common_state())
    return network


def site_seed(federation: Federation, site: Site) -> int:
    """Give the seed of all that is the site's own."""
    return federation.training.seed if site.secret_seed is None else site.secret_seed


def server_network(federation: Federation) -> SeparateCommonSeparate:
    """Make a network for its common layers alone: their shapes depend on no headset, so the server can."""
    contract = federation.contract
    shape = Branch(len(contract.channels or [0]), len(contract.labels or [0, 1]))
    return SeparateCommonSeparate(contract.architecture, {"server": shape}, federation.training.seed)


def _start_by_label(head: nn.ModuleList, labels: tuple[str, ...], seed: int) -> None:
    """Draw a head's weights from the run's seed, each output's row from its label's name besides.

    The common layers of sites that imagine the same limb are then asked for the same thing from the first step on, and
    no site has told another what its subjects imagine.
    """
    for depth, layer in enumerate(head):
        assert isinstance(layer, nn.Linear)
        last = depth == len(head) - 1
        bound, rows = layer.in_features**-0.5, labels if last else map(str, range(layer.out_features))
        with torch.no_grad():
            layer.bias.zero_()
            for k, name in enumerate(rows):
                drawn = torch.Generator().manual_seed(derive_seed(seed, "head", depth, name))
                layer.weight[k] = bound * (2 * torch.rand(layer.in_features, generator=drawn) - 1)
