"""What somebody sees of a site's training: all layers or the common ones, alone or summed, with noise or without."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from federation.privacy.private_training import Mechanism, train_round_privately
from mfscsn.branch import BranchTrials
from mfscsn.settings import Settings
from mfscsn.split import SplitModule
from mfscsn.training import OptimiserState, derive_seed, rounds_of, train_round

NOISE_MULTIPLIERS = (0.5, 1.0, 4.0)  # of differential privacy
MAX_GRAD_NORM = 1.0

Layers = dict[str, Tensor]


@dataclass(frozen=True)
class View:
    """One way of sending updates.

    Parameters
    ----------
    everything : bool
        All layers are sent, as in FedAvg, instead of the common ones.
    secure : bool
        The sum of all sites is seen, and no single site.
    noise_multiplier : float, optional
        Of differential privacy.
    """

    everything: bool = False
    secure: bool = False
    noise_multiplier: float | None = None

    def __str__(self) -> str:
        what = "all layers" if self.everything else "common layers"
        return (
            what
            + (", secure sum" if self.secure else "")
            + (f", noise {self.noise_multiplier:g}" if self.noise_multiplier else "")
        )

    def names(self, network: SplitModule) -> list[str]:
        """Name the parameters that are seen."""
        return [name for name, _ in network.named_parameters()] if self.everything else network.common_names()


VIEWS = (
    View(everything=True),
    View(everything=True, secure=True),
    *(View(everything=True, noise_multiplier=noise) for noise in NOISE_MULTIPLIERS),
    View(),
    View(secure=True),
    *(View(noise_multiplier=noise) for noise in NOISE_MULTIPLIERS),
)


def trained(
    network: SplitModule,
    trials: Mapping[str, BranchTrials],
    settings: Settings,
    view: View,
    seed: int,
    frozen: Sequence[str] = (),
    rounds: int | None = None,
) -> SplitModule:
    """Train a copy of a network for the first or all rounds of `settings`, with the view's noise; `frozen` stays."""
    network = copy.deepcopy(network)
    kept = {name: value.clone() for name, value in network.state_dict().items() if name in frozen}
    state: OptimiserState | None = None
    for number, of_round in itertools.islice(rounds_of(settings), rounds):
        if view.noise_multiplier is None:
            _, state = train_round(network, trials, of_round, seed=derive_seed(seed, number), optimiser_state=state)
        else:
            mechanism = Mechanism(view.noise_multiplier, MAX_GRAD_NORM, max(len(t.labels) for t in trials.values()))
            _, state = train_round_privately(network, trials, of_round, mechanism, optimiser_state=state)
        if kept:
            network.load_state_dict(kept, strict=False)
    return network


def update_of_round(
    network: SplitModule, trials: Mapping[str, BranchTrials], settings: Settings, view: View, seed: int
) -> Layers:
    """Return how one round changes the layers that are seen."""
    after = trained(network, trials, settings, view, seed, rounds=1)
    before, now = dict(network.named_parameters()), dict(after.named_parameters())
    return {name: (now[name] - before[name]).detach() for name in view.names(network)}


def summed(own: Layers, others: Sequence[Layers]) -> Layers:
    """Return what a secure sum shows of a site's layers: the mean over the sites that have a layer.

    A layer that nobody else has is in the sum as it is; which headsets there are is no secret of the protocol.
    """
    having = {name: [own[name], *(part[name] for part in others if name in part)] for name in own}
    return {name: torch.stack(parts).mean(0) for name, parts in having.items()}


def joined(layers: Layers) -> Tensor:
    """Join layers to one vector, by name."""
    return torch.cat([layers[name].flatten() for name in sorted(layers)])
