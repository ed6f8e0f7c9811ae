"""A site's network as a run starts it: own private weights from the site's seed, common ones from the run's."""

from federation.contract import Federation, Site
from federation.site_trials import SiteTrials
from mfscsn.branch import Branch
from mfscsn.heads import start_by_label
from mfscsn.split import SplitModule
from mfscsn.sums import Summed
from mfscsn.training import derive_seed


def site_network(federation: Federation, trials: SiteTrials) -> SplitModule:
    """Make the network of a site for its prepared trials."""
    contract, site, seed = federation.contract, trials.site, federation.training.seed
    own_seed = derive_seed(site_seed(federation, site), site.name)
    network = contract.architecture.build(trials.branches(), own_seed)
    if contract.heads == "label" and not isinstance(network, Summed):
        for branch, labels in trials.labels().items():
            start_by_label(network.head(branch), labels, seed)
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
