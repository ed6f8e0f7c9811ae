"""Audit: make a trial out of the gradient that it left, as a server could that reads updates.

The first linear layer behind the extractor gives the features of a single trial exactly: the gradient of its weights
over that of its bias. Who also has the extractor searches the trial whose features, and whose gradients, are those. In
the common space the body's gradients are all matched, and the head's where it is seen.

References
----------
Zhu, Liu, Han 2019, "Deep leakage from gradients", NeurIPS. Features from a linear layer: Geiping et al. 2020, NeurIPS.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from experiments.audit.views import MAX_GRAD_NORM, Layers, View, joined
from federation.privacy.randomness import secret_normal
from mfscsn.network import SeparateCommonSeparate
from mfscsn.riemann import BANDS
from mfscsn.split import SplitModule

FIRST = "common.0"  # the first common layer
SEARCHES, STEPS = 25, 20  # of L-BFGS


@dataclass(frozen=True)
class TrialForm:
    """What the contract says of every trial: channels, samples, Hz; the band's edges in Hz."""

    n_chans: int
    n_times: int
    sfreq: float
    band: tuple[float, float]


@dataclass(frozen=True)
class Likeness:
    """How near a trial that was made comes to the true one.

    Parameters
    ----------
    correlation : float
        Of the two signals over all channels, without its sign: power features do not know it.
    band_power : float
        Correlation over channels and bands of log power, each less its mean over the site's trials.
    """

    correlation: float
    band_power: float


def gradient_of_trial(network: SplitModule, branch: str, x: Tensor, label: Tensor, view: View) -> Layers:
    """Return what one trial leaves in the layers that are seen: its gradient, cut and noised where the view says so."""
    names = view.names(network)
    loss = F.cross_entropy(network(x[None], branch), label[None])
    every = [name for name, _ in network.named_parameters()]
    of_parameters = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(network.named_parameters(), of_parameters, strict=True)
    }
    if view.noise_multiplier is not None:
        factor = min(1.0, MAX_GRAD_NORM / float(joined(gradients).norm()))
        for name in every:
            noise = torch.from_numpy(secret_normal(gradients[name].numel())).to(x).reshape(gradients[name].shape)
            gradients[name] = factor * gradients[name] + view.noise_multiplier * MAX_GRAD_NORM * noise
    return {name: gradients[name].detach() for name in names}


def invert(
    network: SplitModule,
    branch: str,
    gradients: Layers,
    label: Tensor,
    form: TrialForm,
    seed: int,
) -> Tensor:
    """Search the trial that a gradient came from.

    Parameters
    ----------
    network : SplitModule
        As the attacker has it: with the site's extractor, or with another one in its place.
    branch : str
    gradients : mapping of name to tensor
        Of the layers that the attacker sees.
    label : tensor, shape ()
        Known: it is found by its sign in the head's gradient, or tried out.
    form : TrialForm
    """
    generator = torch.Generator().manual_seed(seed)
    extractor, features = None, torch.empty(0)
    if isinstance(network, SeparateCommonSeparate):
        extractor, features = network.extractors[network.extractor_of[branch]], _ratio(gradients, FIRST)
    n_chans, n_times, (low, high) = form.n_chans, form.n_times, form.band
    frequency = np.fft.rfftfreq(n_times, 1 / form.sfreq)
    kept = torch.from_numpy(np.flatnonzero((frequency >= low) & (frequency <= high)))
    spectrum = (5 * torch.randn(n_chans, len(kept), 2, generator=generator, dtype=torch.float64)).requires_grad_()
    parameters = dict(network.named_parameters())
    searched = ("body.", "heads.") if extractor is None else ("extractors.",)
    matched = [name for name in gradients if name.startswith(searched) and gradients[name].any()]

    def trial() -> Tensor:
        whole = torch.zeros(n_chans, len(frequency), dtype=torch.complex128)
        whole[:, kept] = torch.view_as_complex(spectrum)
        signals: Tensor = torch.fft.irfft(whole, n_times)
        return signals

    optimiser = torch.optim.LBFGS([spectrum], max_iter=STEPS, history_size=50, line_search_fn="strong_wolfe")

    def distance() -> float:
        optimiser.zero_grad()
        x = trial()
        far = torch.zeros((), dtype=torch.float64)
        if extractor is not None:
            far = far + (extractor(x[None]).flatten() - features).square().mean()
        if matched:
            loss = F.cross_entropy(network(x[None], branch), label[None])
            tried = torch.autograd.grad(loss, [parameters[name] for name in matched], create_graph=True)
            for name, gradient in zip(matched, tried, strict=True):
                far = far + (gradient - gradients[name]).square().sum() / gradients[name].square().sum()
        far.backward()  # type: ignore[no-untyped-call]
        return float(far.detach())

    for _ in range(SEARCHES):
        optimiser.step(distance)  # type: ignore[no-untyped-call]
    return trial().detach()


def likeness(made: Tensor, true: Tensor, usual: NDArray[np.float64], sfreq: float) -> Likeness:
    """Compare signals ``(n_chans, n_times)`` that were made with the true ones.

    `usual` is the mean of `log_band_powers` over the site's trials: what all of them have in common tells of none.
    """
    r = _correlation(made.flatten().numpy(), true.flatten().numpy())
    powers = [log_band_powers(part.numpy()[None], sfreq)[0] - usual for part in (made, true)]
    return Likeness(abs(r), _correlation(powers[0].ravel(), powers[1].ravel()))


def log_band_powers(trials: NDArray[np.floating], sfreq: float) -> NDArray[np.float64]:
    """Return the log power ``(n_trials, n_bands, n_chans)`` of trials ``(n_trials, n_chans, n_times)``."""
    frequency = np.fft.rfftfreq(trials.shape[-1], 1 / sfreq)
    power = np.abs(np.fft.rfft(trials.astype(np.float64), axis=-1)) ** 2
    in_bands = [power[..., (frequency >= low) & (frequency < high)].sum(-1) for low, high in BANDS]
    powers: NDArray[np.float64] = np.log(np.stack(in_bands, axis=1) + 1e-12)
    return powers


def _ratio(gradients: Layers, layer: str) -> Tensor:
    """Return a linear layer's input: each row of its weights' gradient is a multiple of it, the bias's says which."""
    weight, bias = gradients[f"{layer}.weight"], gradients[f"{layer}.bias"]
    return (bias @ weight) / (bias @ bias)


def _correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
