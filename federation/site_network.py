"""A site's network as a run starts it: own private weights from the site's seed, common ones from the run's."""

from pathlib import Path

from federation.contract import Federation, Site
from federation.site_trials import branches
from mfscsn.network import Branch, SeparateCommonSeparate
from mfscsn.training import derive_seed


def site_network(federation: Federation, site: Site, store: Path) -> SeparateCommonSeparate:
    """Make the network of a site whose trials are prepared under `store`."""
    contract, seed = federation.contract, federation.training.seed
    shapes = branches(site, contract, store)
    network = SeparateCommonSeparate(contract.architecture, shapes, derive_seed(seed, site.name))
    network.load_common(server_network(federation).common_state())
    return network


def server_network(federation: Federation) -> SeparateCommonSeparate:
    """Make a network for its common layers alone: their shapes depend on no headset, so the server can."""
    contract = federation.contract
    shape = Branch(len(contract.channels or [0]), len(contract.labels or [0, 1]))
    return SeparateCommonSeparate(contract.architecture, {"server": shape}, federation.training.seed)
