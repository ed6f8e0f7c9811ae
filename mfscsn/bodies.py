"""Bodies: what decodes trials in the common space, the same at every site. All parameters of a body are common.

A body is built as ``Body(n_electrodes, n_times, sfreq, band)``, maps ``(batch, n_electrodes, n_times)`` to
``(batch, n_features)`` and says `n_features` and `norm_sizes`: the normalisations, which are running averages over a
site's own signals, are handed to it, one for each size, since they stay there. "tangent" takes tangent vectors
``(batch, n_views, n_pairs)`` in place of signals.
"""

import importlib
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional as F

from mfscsn.extractors import TangentExtractor


def elu(x: Tensor) -> Tensor:
    """Return what torch's own ``elu`` does, whose forward pass takes ten times as long on the processor in 2.14."""
    return F.relu(x) + torch.expm1(-F.relu(-x))


class EEGNetBody(nn.Module):
    """EEGNet without its classifier, spatial filters first.

    EEGNet filters in time, normalises, and then filters over channels. Without the norm between them the two are one
    linear map, and the spatial filters, which are few, may come first: a tenth of the work. Kernels are set in seconds.

    Parameters
    ----------
    n_electrodes, n_times : int
        Of the common space; samples of a trial.
    sfreq : float
        Hz.
    band : pair of float, optional
        Hz; it changes nothing here.
    n_temporal, depth : int
        Temporal filters, and spatial filters behind each: F1 and D.
    n_features : int
        Pointwise filters: F2.
    kernels : pair of float
        Of the temporal and the separable convolution, seconds.
    pools : pair of float
        Of the two average poolings, seconds.
    drop_prob : float

    Raises
    ------
    ValueError
        When a trial is too short for the poolings.

    References
    ----------
    Lawhern et al. 2018, Journal of Neural Engineering 15(5):056013.
    """

    def __init__(
        self,
        n_electrodes: int,
        n_times: int,
        sfreq: float,
        band: tuple[float, float] | None = None,
        *,
        n_temporal: int = 16,
        depth: int = 2,
        n_features: int = 32,
        kernels: tuple[float, float] = (0.5, 0.5),
        pools: tuple[float, float] = (1 / 32, 1 / 4),
        drop_prob: float = 0.25,
    ):
        super().__init__()
        n_spatial = n_temporal * depth
        self.depth = depth
        self.first_pool = max(1, round(pools[0] * sfreq))
        self.second_pool = max(1, round(pools[1] * sfreq / self.first_pool))
        n_steps = n_times // self.first_pool // self.second_pool
        if n_steps < 1:
            raise ValueError(
                f"n_times={n_times} at {sfreq:g} Hz is too short: pooling needs {self.first_pool * self.second_pool}"
                " samples"
            )
        self.n_features = n_features * n_steps
        self.norm_sizes = (n_spatial, n_features)
        lengths = [max(1, round(kernels[0] * sfreq)), max(1, round(kernels[1] * sfreq / self.first_pool))]
        self.spatial = _weights((n_spatial, n_electrodes), n_electrodes)
        self.temporal = _weights((n_temporal, lengths[0]), lengths[0])
        self.separable = _weights((n_spatial, lengths[1]), lengths[1])
        self.pointwise = _weights((n_features, n_spatial), n_spatial)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(size)) for size in self.norm_sizes])
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in self.norm_sizes])
        self.drop = nn.Dropout(drop_prob)

    def forward(self, x: Tensor, norms: Sequence[nn.Module]) -> Tensor:
        """Map trials ``(batch, n_electrodes, n_times)`` to ``(batch, n_features)``."""
        first, second = norms
        x = filtered(x, self.spatial, self.temporal.repeat_interleave(self.depth, 0))
        x = elu(_normed(x, first, self.scales[0], self.shifts[0]))
        x = self.drop(F.avg_pool1d(x, self.first_pool))
        kernel = self.separable.shape[1]
        x = F.conv1d(F.pad(x, (kernel // 2, (kernel - 1) // 2)), self.separable[:, None], groups=len(self.separable))
        x = elu(_normed(self.pointwise @ x, second, self.scales[1], self.shifts[1]))
        features: Tensor = self.drop(F.avg_pool1d(x, self.second_pool)).flatten(1)
        return features

    @staticmethod
    def image(x: Tensor, electrodes: Tensor) -> Tensor:
        """Return trials as the mirrored head has them: `electrodes` are the places of the mirror images."""
        return x[:, electrodes]


class TangentBody(TangentExtractor):
    """A learned projection of tangent vectors in the common space: `mfscsn.extractors.TangentExtractor`, common."""

    norm_sizes: tuple[int, ...] = ()

    def __init__(self, n_electrodes: int, n_times: int, sfreq: float, band: tuple[float, float] | None = None):
        super().__init__(n_electrodes, n_times, sfreq, band=band)

    def forward(self, x: Tensor, norms: Sequence[nn.Module] = ()) -> Tensor:
        """Map tangent vectors ``(batch, n_views, n_pairs)`` to ``(batch, n_features)``."""
        return super().forward(x).flatten(1)

    @staticmethod
    def image(x: Tensor, electrodes: Tensor) -> Tensor:
        """Return trials as the mirrored head has them: `electrodes` are the places of the mirror images."""
        return x[..., mirrored_pairs(electrodes.tolist())]


def mirrored_pairs(electrodes: Sequence[int]) -> list[int]:
    """Return the places of the mirrored entries of an upper triangle, `mfscsn.riemann.upper`'s."""
    n = len(electrodes)
    pairs = [(row, column) for row in range(n) for column in range(row, n)]
    place = {pair: k for k, pair in enumerate(pairs)}
    images = [sorted((electrodes[row], electrodes[column])) for row, column in pairs]
    return [place[row, column] for row, column in images]


def filtered(x: Tensor, spatial: Tensor, kernels: Tensor) -> Tensor:
    """Filter over channels, then each filter's output in time by its own kernel; as long as before, zeros beyond.

    Both are taken of spectra: those of the trials are no part of the gradient, which saves a third of a step.

    Parameters
    ----------
    x : tensor, shape (batch, n_chans, n_times)
    spatial : tensor, shape (n_spatial, n_chans)
    kernels : tensor, shape (n_spatial, kernel)

    Returns
    -------
    tensor, shape (batch, n_spatial, n_times)
        What ``conv1d`` gives of ``spatial @ x``, one group a filter, with ``kernel // 2`` zeros before and
        ``(kernel - 1) // 2`` behind.
    """
    n_times, kernel = x.shape[-1], kernels.shape[-1]
    length = next_fast_len(n_times + kernel - 1, real=True)
    spectra = torch.view_as_real(torch.fft.rfft(x, length)).flatten(-2)
    mixed = torch.view_as_complex((spatial @ spectra).reshape(len(x), len(spatial), -1, 2))
    start = (kernel - 1) // 2
    out: Tensor = torch.fft.irfft(mixed * torch.fft.rfft(kernels.flip(-1), length), length)
    return out[..., start : start + n_times]


def _normed(x: Tensor, norm: nn.Module, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise by a site's averages, scale and shift by the common parameters, in one pass."""
    assert isinstance(norm, nn.BatchNorm1d)
    of_batch = norm.training or norm.running_mean is None
    momentum = 0.0 if norm.momentum is None else norm.momentum
    return F.batch_norm(x, norm.running_mean, norm.running_var, scale, shift, of_batch, momentum, norm.eps)


def _weights(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    return nn.Parameter(fan_in**-0.5 * (2 * torch.rand(shape) - 1))


class BraindecodeBody(nn.Module):
    """Any of braindecode's models without its final layer.

    Its own batch norms stay in it: what they learn is common, and their running averages, as all buffers, private.

    Parameters
    ----------
    name : str
        Of a class in `braindecode.models`.
    n_electrodes, n_times : int
        Of the common space; samples of a trial.
    sfreq : float
        Hz.

    Raises
    ------
    ValueError
        When braindecode is not installed, has no such model, or the model cannot take such trials.
    """

    norm_sizes: tuple[int, ...] = ()

    def __init__(self, name: str, n_electrodes: int, n_times: int, sfreq: float):
        super().__init__()
        try:
            models = importlib.import_module("braindecode.models")
        except ModuleNotFoundError as error:
            raise ValueError(
                f"body {BRAINDECODE + name!r} needs braindecode: pip install 'mfscsn[benchmark]'"
            ) from error
        except (ImportError, OSError) as error:  # torchaudio's libraries want one torch
            why = " ".join(str(error).split())[:200]
            raise ValueError(
                f"body {BRAINDECODE + name!r}: braindecode is installed and cannot be imported ({why}); `mfscsn doctor`"
                " says which packages do not fit"
            ) from error
        known = [key for key, value in vars(models).items() if isinstance(value, type)]
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise ValueError(f"braindecode has no model {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = getattr(models, name)(n_chans=n_electrodes, n_outputs=2, n_times=n_times, sfreq=sfreq)
            model.final_layer = nn.Flatten()
            with torch.no_grad():
                (_, self.n_features) = model.eval()(torch.zeros(2, n_electrodes, n_times)).shape
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise ValueError(
                f"braindecode's {name} cannot take {n_electrodes} electrodes x {n_times} samples at {sfreq:g} Hz, or"
                f" has no final layer to leave out: {why}"
            ) from error
        self.model = model.train()

    def forward(self, x: Tensor, norms: Sequence[nn.Module]) -> Tensor:
        """Map trials ``(batch, n_electrodes, n_times)`` to ``(batch, n_features)``."""
        features: Tensor = self.model(x)
        return features

    @staticmethod
    def image(x: Tensor, electrodes: Tensor) -> Tensor:
        """Return trials as the mirrored head has them: `electrodes` are the places of the mirror images."""
        return x[:, electrodes]


BODIES: dict[str, type[EEGNetBody] | type[TangentBody]] = {"eegnet": EEGNetBody, "tangent": TangentBody}
BRAINDECODE = "braindecode:"


def build_body(
    name: str, n_electrodes: int, n_times: int, sfreq: float, band: tuple[float, float] | None
) -> EEGNetBody | TangentBody | BraindecodeBody:
    """Make a body: a key of `BODIES`, or ``"braindecode:MODEL"``; ValueError when there is none, or it does not fit."""
    if name.startswith(BRAINDECODE):
        return BraindecodeBody(name.removeprefix(BRAINDECODE), n_electrodes, n_times, sfreq)
    if name not in BODIES:
        raise ValueError(f"no body {name!r}; there are {', '.join(BODIES)}, and {BRAINDECODE}MODEL")
    return BODIES[name](n_electrodes, n_times, sfreq, band)
