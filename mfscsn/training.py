"""One site's local training: network + trials + settings -> log. Reads from top to bottom."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mfscsn.branch import BranchTrials
from mfscsn.device import held_on
from mfscsn.losses import branch_mmd, class_weights
from mfscsn.settings import Settings
from mfscsn.split import SplitModule
from mfscsn.sums import Summed


@dataclass(frozen=True)
class RoundLog:
    """What a round's local training was like: means over its trials, measured while training; NaN where none was."""

    n_trials: int
    loss: float
    accuracy: float


OptimiserState = dict[str, Tensor]


def rounds_of(settings: Settings, first: int = 1) -> Iterator[tuple[int, Settings]]:
    """Yield each round's number and what holds in it, from `first` to the last: whoever trains rounds goes by this."""
    for number in range(first, settings.rounds + 1):
        yield number, settings.in_round(number)


def train_round(
    network: SplitModule,
    trials: Mapping[str, BranchTrials],
    settings: Settings,
    *,
    seed: int,
    optimiser_state: OptimiserState | None = None,
    device: str = "cpu",
) -> tuple[RoundLog, OptimiserState]:
    """Train one round, in place.

    Parameters
    ----------
    network : SplitModule
        Its branches are the keys of `trials`.
    trials : mapping of branch name to BranchTrials
    seed : int
        Of this round's shuffling and dropout: the same seed and state give the same result, bit for bit, at one
        number of threads.
    optimiser_state : dict, optional
        AdamW's state of the private layers as an earlier round returned it. The common layers were replaced by the
        server's since, so theirs starts anew each round.
    device : {"cpu", "cuda"}
        Where it is trained; network and state come back to the processor. A graphics card draws other dropout.

    Returns
    -------
    RoundLog, dict
        The log, and AdamW's state of the private layers, flat: ``"<parameter>/<moment>"`` -> tensor.
    """
    if isinstance(network, Summed):
        before = network.common_state()
        network.take(trials, settings.person_norm)
        if not settings.local_epochs:  # adopted layers stay as they are
            network.load_common(before)
        return RoundLog(sum(len(t.labels) for t in trials.values()), math.nan, math.nan), {}
    with held_on(network, device):
        torch.manual_seed(seed)
        return _train_on(device, network, trials, settings, np.random.default_rng(seed), optimiser_state or {})


def _train_on(
    device: str,
    network: SplitModule,
    trials: Mapping[str, BranchTrials],
    settings: Settings,
    rng: np.random.Generator,
    optimiser_state: OptimiserState,
) -> tuple[RoundLog, OptimiserState]:
    signals = {
        name: torch.from_numpy(np.require(t.signals, requirements=["C", "W"])).to(device) for name, t in trials.items()
    }
    labels = {name: torch.from_numpy(t.labels) for name, t in trials.items()}
    weights = {
        name: class_weights(network.shown_counts(labels[name], len(t.names), name)).to(device)
        for name, t in trials.items()
    }
    common = {name: p for name, p in network.named_parameters() if name in set(network.common_names())}
    before = {name: p.detach().clone() for name, p in common.items()}

    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    restore_optimiser(optimiser, network, optimiser_state)

    network.train()
    steps: list[tuple[int, Tensor, list[Tensor]]] = []  # read at the end: a graphics card would wait for each number
    n_steps = max(math.ceil(len(t.labels) / settings.batch_size) for t in trials.values())
    for epoch in range(settings.private_first + settings.local_epochs):
        for name, parameter in network.named_parameters():
            turn = not settings.private_first or (name in common) == (epoch >= settings.private_first)
            parameter.requires_grad_(turn)
        for batch in _batches(trials, n_steps, rng):
            n_batch = sum(len(index) for index in batch.values())

            def gradients(
                batch: dict[str, NDArray[np.int64]] = batch, n_batch: int = n_batch
            ) -> tuple[Tensor, list[Tensor]]:
                loss, deep, right = torch.zeros((), device=device), [], []
                for name, index in batch.items():
                    shown, target = network.augmented(signals[name][index], labels[name][index], name)
                    *features, logits = network.deep_features(shown, name)
                    there = target.to(device)
                    branch_loss = F.cross_entropy(logits, there, weight=weights[name])
                    loss = loss + branch_loss * (len(index) / n_batch)
                    deep.append((features, [trials[name].names[k] for k in target]))
                    right.append((logits.detach().argmax(1) == there).sum())
                supervised = loss.detach()
                if settings.mmd > 0 and len(deep) > 1:
                    loss = loss + settings.mmd * branch_mmd([f for f, _ in deep], [n for _, n in deep])
                if settings.proximal_mu > 0:
                    drift = sum((p - before[name]).square().sum() for name, p in common.items())
                    loss = loss + settings.proximal_mu / 2 * drift
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                return supervised, right

            if settings.sharpness > 0:
                with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
                    steps.append((n_batch, *gradients()))
                with _uphill(network, settings.sharpness):
                    gradients()  # the same flips and the same dropout: the loss of the same batch
            else:
                steps.append((n_batch, *gradients()))
            optimiser.step()
            network.after_step(settings.lr)
    network.requires_grad_(True)

    n = sum(n_batch for n_batch, _, _ in steps)
    log = RoundLog(
        n_trials=sum(len(t.labels) for t in trials.values()),
        loss=sum(float(loss) * n_batch for n_batch, loss, _ in steps) / n,
        accuracy=sum(int(right) for _, _, parts in steps for right in parts) / n,
    )
    return log, private_optimiser_state(optimiser, network)


def fine_tune(network: SplitModule, trials: BranchTrials, branch: str, settings: Settings, seed: int) -> SplitModule:
    """Fit a copy of a trained network to one subject's own trials; all its layers move, and none of them leaves.

    Parameters
    ----------
    network : SplitModule
        Stays as it is.
    trials : BranchTrials
        The subject's calibration.
    branch : str
        The branch that they go through.
    settings : Settings
        `fine_tune` says how many passes; with 0 the copy is the network.

    Raises
    ------
    ValueError
        When it leaves a value that is not finite.

    Where the network is sums (`mfscsn.sums`), the subject's own trials weigh more in the copy, and nothing is trained.
    """
    if isinstance(network, Summed):
        return network.with_own(trials)
    own = copy.deepcopy(network)
    if settings.fine_tune:
        alone = replace(settings, rounds=1, local_epochs=settings.fine_tune, private_first=0, proximal_mu=0.0)
        train_round(own, {branch: trials}, alone, seed=seed)
        if not all(values.isfinite().all() for values in own.state_dict().values()):
            raise ValueError(
                f"fine-tuning on {len(trials.labels)} trials gave a value that is not finite; lower lr or fine_tune"
            )
    return own


def predict(
    network: SplitModule, signals: NDArray[np.float32], branch: str, batch_size: int = 256
) -> NDArray[np.float64]:
    """Return class probabilities ``(n_trials, n_outputs)`` of trials in the form of `BranchTrials.signals`."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(np.require(signals[at : at + batch_size], requirements=["C", "W"])), branch)
            for at in range(0, len(signals), batch_size)
        ]
    return torch.cat(parts).double().softmax(1).numpy()  # in single precision a softmax reaches 0


def derive_seed(*words: int | str) -> int:
    """Derive a seed from words, such as (seed, site, round): stable across machines and Python runs."""
    entropy = [word if isinstance(word, int) else int.from_bytes(word.encode(), "little") for word in words]
    return int(np.random.SeedSequence([len(words), *entropy]).generate_state(1)[0])


@contextmanager
def _uphill(network: SplitModule, radius: float) -> Iterator[None]:
    """Stand where the loss rises most steeply, `radius` away, and come back; the gradients found there stay."""
    moved = [p for p in network.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in moved if p.grad is not None]
    scale = radius / (torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(()))) + 1e-12)
    before = [p.detach().clone() for p in moved]
    with torch.no_grad():
        for p, g in zip(moved, gradients, strict=True):
            p.add_(g * scale)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(moved, before, strict=True):
                p.copy_(value)


def _batches(
    trials: Mapping[str, BranchTrials], n_steps: int, rng: np.random.Generator
) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Yield `n_steps` batches that hold every trial once, each branch spread evenly over the steps."""
    parts = {name: np.array_split(rng.permutation(len(t.labels)), n_steps) for name, t in trials.items()}
    for step in range(n_steps):
        yield {name: part[step] for name, part in parts.items() if len(part[step])}


def private_optimiser_state(optimiser: torch.optim.AdamW, network: SplitModule) -> OptimiserState:
    """Copy the optimiser's state of the private layers, flat: ``"<parameter>/<moment>"`` -> tensor."""
    common = set(network.common_names())
    return {
        f"{name}/{moment}": value.detach().cpu().clone()
        for name, parameter in network.named_parameters()
        if name not in common
        for moment, value in optimiser.state[parameter].items()
    }


def restore_optimiser(optimiser: torch.optim.AdamW, network: SplitModule, state: OptimiserState) -> None:
    """Take up the optimiser's state as `private_optimiser_state` gave it; ValueError when a parameter is unknown."""
    parameters = dict(network.named_parameters())
    for key, value in state.items():
        name, moment = key.rsplit("/", 1)
        if name not in parameters:
            raise ValueError(f"optimiser state names the unknown parameter {name!r}")
        place = "cpu" if moment == "step" else parameters[name].device  # AdamW counts steps on the processor
        optimiser.state[parameters[name]][moment] = value.to(place, copy=True)
