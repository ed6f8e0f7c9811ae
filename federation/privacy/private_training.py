"""Differentially private training of one round: as `mfscsn.training.train_round`, but no trial can show.

In each step every trial is drawn by itself, its gradient of **all** parameters, private layers included, is clipped to
one length, and noise is added to their sum. The private layers stay at the site, but the common ones are trained
through them, so what they learned of a trial must be covered too. Nothing else of the training trials may enter:
class weights, batch norm, an alignment that is fitted, or a discrepancy between branches mix trials, and are refused
or left out.

References
----------
Abadi et al. 2016, "Deep learning with differential privacy", ACM CCS. Gradients of single trials: Opacus (Yousefpour et
al. 2021, arXiv:2109.12298).
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule, register_grad_sampler
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import InputError
from data.files import locked
from federation.contract import Privacy
from federation.privacy.ledger import Ledger
from federation.privacy.randomness import secret_normal, secret_uniform
from mfscsn.branch import BranchTrials
from mfscsn.device import held_on
from mfscsn.extractors import FusedConvolution
from mfscsn.settings import Settings
from mfscsn.split import SplitModule
from mfscsn.training import OptimiserState, RoundLog, private_optimiser_state, restore_optimiser


@dataclass(frozen=True)
class Mechanism:
    """What a step adds and how often a trial is in one.

    Parameters
    ----------
    noise_multiplier : float
        Deviation of the noise, over `max_grad_norm`.
    max_grad_norm : float
        Greatest length of a trial's gradient.
    n_trials : int
        Of the largest branch, as the site declares it.
    """

    noise_multiplier: float
    max_grad_norm: float
    n_trials: int


def steps_of_round(n_trials: int, settings: Settings) -> tuple[int, float]:
    """Return how many steps a round has, and how probably a trial is in each of them.

    Parameters
    ----------
    n_trials : int
        Of the largest branch, as the site declares it: the true number would tell whether one trial was there.
    settings : Settings
        In the mean, as many trials of such a branch as `batch_size` says are in a step.
    """
    in_epoch = math.ceil(n_trials / settings.batch_size)
    return settings.local_epochs * in_epoch, 1 / in_epoch


@dataclass(frozen=True)
class ChargedRound:
    """A round of a run that the ledger at `path` is charged for."""

    path: Path
    privacy: Privacy
    run: str
    number: int


def train_within_budget(
    charged: ChargedRound,
    network: SplitModule,
    trials: Mapping[str, BranchTrials],
    settings: Settings,
    optimiser_state: OptimiserState | None,
    device: str = "cpu",
) -> tuple[RoundLog, OptimiserState, float]:
    """Write a round down in its ledger, then train it; return epsilon after it besides.

    Raises
    ------
    BudgetSpent
        When the round would pass the site's budget: nothing is trained.
    """
    path, privacy, n_trials = charged.path, charged.privacy, charged.privacy.n_trials
    assert n_trials is not None
    if privacy.delta * n_trials * len(trials) >= 1:
        raise InputError(
            f"privacy.delta = {privacy.delta:g} lets one of {n_trials * len(trials)} trials be told whole; take"
            " a delta well below one over their number"
        )
    n_steps, rate = steps_of_round(n_trials, settings)
    with locked(path.parent, "privacy", f"{path}: another process is writing to it", wait=60.0):
        ledger = Ledger(path, privacy)
        noise_multiplier = ledger.noise_multiplier_of(charged.run, settings.rounds, n_steps, rate)
        epsilon = ledger.charge(charged.run, charged.number, noise_multiplier, n_steps, rate)
    mechanism = Mechanism(noise_multiplier, privacy.max_grad_norm, n_trials)
    trained = train_round_privately(
        network, trials, settings, mechanism, optimiser_state=optimiser_state, device=device
    )
    return *trained, epsilon


def train_round_privately(
    network: SplitModule,
    trials: Mapping[str, BranchTrials],
    settings: Settings,
    mechanism: Mechanism,
    *,
    optimiser_state: OptimiserState | None = None,
    device: str = "cpu",
) -> tuple[RoundLog, OptimiserState]:
    """Train one round, in place, by noisy sums of clipped gradients.

    No two calls are alike: who could foretell noise and draws could take them away again.

    Parameters
    ----------
    network, trials, settings, optimiser_state, device
        As in `mfscsn.training.train_round`. The trials were aligned by nothing that was fitted on them.
    mechanism : Mechanism

    Returns
    -------
    RoundLog, dict
        As `mfscsn.training.train_round` gives them. Loss and accuracy are of the trials themselves: they may not leave
        the site. The number of trials is the declared one.
    """
    with held_on(network, device):
        return _train_on(device, network, trials, settings, mechanism, optimiser_state or {})


def _train_on(
    device: str,
    network: SplitModule,
    trials: Mapping[str, BranchTrials],
    settings: Settings,
    mechanism: Mechanism,
    optimiser_state: OptimiserState,
) -> tuple[RoundLog, OptimiserState]:
    signals = {
        name: torch.from_numpy(np.require(t.signals, requirements=["C", "W"])).to(device) for name, t in trials.items()
    }
    labels = {name: torch.from_numpy(t.labels).to(device) for name, t in trials.items()}
    sizes = {name: len(t.labels) for name, t in trials.items()}
    n_steps, rate = steps_of_round(mechanism.n_trials, settings)
    expected = rate * mechanism.n_trials * len(trials)
    parameters = list(network.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    restore_optimiser(optimiser, network, optimiser_state)
    torch.seed()  # dropout

    network.train()
    total = {"n": 0, "loss": 0.0, "right": 0.0}
    with gradients_of_trials(network):
        for _ in range(n_steps):
            sums = [torch.zeros_like(p) for p in parameters]
            for name in trials:
                drawn = torch.from_numpy(np.flatnonzero(secret_uniform(sizes[name]) < rate))
                if len(drawn) == 0:
                    continue
                logits = network(signals[name][drawn], name)
                loss = F.cross_entropy(logits, labels[name][drawn], reduction="sum")
                loss.backward()  # type: ignore[no-untyped-call]
                for whole, part in zip(
                    sums, clip_per_sample_gradients(parameters, mechanism.max_grad_norm), strict=True
                ):
                    whole += part
                total["n"] += len(drawn)
                total["loss"] += float(loss.detach())
                total["right"] += int((logits.argmax(1) == labels[name][drawn]).sum())
            for parameter, whole in zip(parameters, sums, strict=True):
                noise = mechanism.noise_multiplier * mechanism.max_grad_norm * _normal(whole)
                parameter.grad = (whole + noise) / expected
            optimiser.step()
            optimiser.zero_grad()

    n = max(1, total["n"])
    log = RoundLog(n_trials=mechanism.n_trials * len(trials), loss=total["loss"] / n, accuracy=total["right"] / n)
    return log, private_optimiser_state(optimiser, network)


@contextmanager
def gradients_of_trials(network: nn.Module) -> Iterator[None]:
    """Have a backward pass leave each trial's own gradient in ``parameter.grad_sample``, of shape ``(batch, ...)``.

    The loss must be the sum over trials.
    """
    logger = logging.getLogger("opacus")
    before = logger.level
    logger.setLevel(logging.ERROR)
    watched = GradSampleModule(network, loss_reduction="sum")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # signals have no gradient, rightly
            yield
    finally:
        watched.remove_hooks()
        logger.setLevel(before)
        for parameter in network.parameters():
            for left in ("grad_sample", "_forward_counter", "_current_grad_sample"):
                if hasattr(parameter, left):
                    delattr(parameter, left)


def clip_per_sample_gradients(parameters: list[nn.Parameter], max_grad_norm: float) -> list[Tensor]:
    """Clip each trial's gradient to a length of at most `max_grad_norm` and return their sum; forget them.

    The length is over all parameters together; one that no trial of this batch went through has a gradient of zero.
    """
    samples: list[Tensor | None] = [getattr(p, "grad_sample", None) for p in parameters]
    lengths = torch.sqrt(sum((g.flatten(1).square().sum(1) for g in samples if g is not None), torch.zeros(())))
    factors = (max_grad_norm / (lengths + 1e-12)).clamp(max=1.0)
    cut = [
        torch.zeros_like(p) if g is None else torch.einsum("n,n...->...", factors, g)
        for p, g in zip(parameters, samples, strict=True)
    ]
    for parameter in parameters:
        parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
    return cut


@register_grad_sampler(FusedConvolution)  # type: ignore[untyped-decorator]
def _of_fused_convolution(
    layer: FusedConvolution, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Return each trial's gradients of the two filters, by way of the kernel that they make together."""
    windows = activations[0].unfold(-1, layer.temporal.shape[1], 1)  # (batch, n_chans, n_steps, kernel)
    kernels = torch.einsum("not,nctk->nock", backprops, windows)
    return {
        layer.spatial: torch.einsum("nock,fk->nofc", kernels, layer.temporal),
        layer.temporal: torch.einsum("nock,ofc->nfk", kernels, layer.spatial),
    }


def _normal(like: Tensor) -> Tensor:
    drawn: NDArray[np.float64] = secret_normal(like.numel())
    return torch.from_numpy(drawn.astype(np.float32)).reshape(like.shape).to(like.device)
