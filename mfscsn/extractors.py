"""Extractors: the separate first layers, from one headset's channels to features that have no channels left.

Every extractor is built as ``Extractor(n_chans, n_times, sfreq)``, maps ``(batch, n_chans, n_times)`` to
``(batch, n_features, n_steps)`` and says both numbers, so that common layers fit behind any headset. "riemann" takes
tangent vectors ``(batch, n_views, n_pairs)`` of `mfscsn.riemann` in place of signals.
"""

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional as F

from mfscsn.riemann import n_views

LOG_FLOOR = 1e-6
# Where the Fourier form was measured to be faster, on processors with wide vectors (docs/performance.md)
FOURIER_KERNEL, FOURIER_TAPS = 16, 250


def fused_convolution(x: Tensor, spatial: Tensor, temporal: Tensor) -> Tensor:
    """Filter in time, then over channels, as one convolution whose kernel is the contraction of the two.

    Parameters
    ----------
    x : tensor, shape (batch, n_chans, n_times)
    spatial : tensor, shape (n_out, n_filters, n_chans)
    temporal : tensor, shape (n_filters, kernel)

    Returns
    -------
    tensor, shape (batch, n_out, n_times - kernel + 1)
    """
    return F.conv1d(x, torch.einsum("ofc,fk->ock", spatial, temporal))


def fused_convolution_by_fourier(x: Tensor, spatial: Tensor, temporal: Tensor) -> Tensor:
    """Return what `fused_convolution` gives, by products of spectra: its work does not grow with the kernel's length.

    A circular convolution of the trial's own length wraps around in its first ``kernel - 1`` samples alone, and those
    are not asked for.
    """
    n_times, kernel, n_out, n_chans = x.shape[-1], temporal.shape[1], spatial.shape[0], spatial.shape[2]
    length = next_fast_len(n_times, real=True)
    filters = torch.view_as_real(torch.fft.rfft(temporal.flip(-1), length))  # (n_filters, n_freqs, 2)
    mixed = filters.permute(1, 2, 0).flatten(0, 1) @ spatial.permute(1, 2, 0).flatten(1)
    real, imaginary = mixed.reshape(-1, 2, n_chans, n_out).unbind(1)
    kernels = torch.complex(real, imaginary)  # (n_freqs, n_chans, n_out)
    spectrum = torch.fft.rfft(x, length).permute(2, 0, 1).contiguous()  # (n_freqs, batch, n_chans)
    out: Tensor = torch.fft.irfft((spectrum @ kernels).permute(1, 2, 0), length)
    return out[..., kernel - 1 : n_times]


class FusedConvolution(nn.Module):
    """A temporal convolution and the spatial one behind it, as one; in the form that is quicker for the kernel.

    Parameters
    ----------
    n_chans, n_filters, kernel : int
        Channels; temporal filters, and as many spatial ones; samples of a temporal filter.
    """

    def __init__(self, n_chans: int, n_filters: int, kernel: int):
        super().__init__()
        by_fourier = kernel >= FOURIER_KERNEL and kernel * n_chans >= FOURIER_TAPS
        self.convolve = fused_convolution_by_fourier if by_fourier else fused_convolution
        self.temporal = nn.Parameter(torch.empty(n_filters, kernel))
        self.spatial = nn.Parameter(torch.empty(n_filters, n_filters, n_chans))
        # Xavier of the two convolutions that are fused here: fan in and fan out as they would have
        for weight, fans in (
            (self.temporal, kernel + n_filters * kernel),
            (self.spatial, 2 * n_filters * n_chans),
        ):
            bound = (6.0 / fans) ** 0.5
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map signals ``(batch, n_chans, n_times)`` to ``(batch, n_filters, n_times - kernel + 1)``."""
        return self.convolve(x, self.spatial, self.temporal)


class ShallowExtractor(nn.Module):
    """Band power of learned spatio-temporal filters: the front end of ShallowConvNet, fused.

    The temporal convolution and the spatial one behind it are both linear, so one convolution whose kernel is the
    contraction of the two gives the same output for a fraction of the work; with long kernels, spectra are multiplied
    instead. Biases are left out: batch norm follows and takes any constant away. Kernel lengths are set in seconds, so
    one setting serves all rates.

    Parameters
    ----------
    n_chans, n_times : int
        Channels of the headset; samples of a trial.
    sfreq : float
        Sampling rate in Hz.
    n_filters : int
        Temporal filters, and as many spatial ones.
    filter_length, pool_length, pool_stride : float
        Seconds.
    drop_prob : float
        Dropout of the features.

    Raises
    ------
    ValueError
        When a trial is shorter than the filter and the pooling window together.

    References
    ----------
    Schirrmeister et al. 2017, Human Brain Mapping 38(11):5391-5420.
    """

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        sfreq: float,
        *,
        n_filters: int = 40,
        filter_length: float = 0.1,
        pool_length: float = 0.3,
        pool_stride: float = 0.06,
        drop_prob: float = 0.5,
    ):
        super().__init__()
        kernel, self.pool, self.stride = (
            max(1, round(seconds * sfreq)) for seconds in (filter_length, pool_length, pool_stride)
        )
        self.n_features = n_filters
        self.n_steps = (n_times - kernel + 1 - self.pool) // self.stride + 1
        if self.n_steps < 1:
            raise ValueError(
                f"n_times={n_times} at {sfreq:g} Hz is too short: "
                f"filter and pooling need {kernel + self.pool - 1} samples"
            )
        self.filters = FusedConvolution(n_chans, n_filters, kernel)
        self.norm = self._norm(n_filters)
        self.drop = nn.Dropout(drop_prob)

    def _norm(self, n_filters: int) -> nn.Module:
        return nn.BatchNorm1d(n_filters)

    def forward(self, x: Tensor) -> Tensor:
        """Map signals ``(batch, n_chans, n_times)`` to log power ``(batch, n_features, n_steps)``."""
        x = self.norm(self.filters(x))
        x = F.avg_pool1d(x * x, self.pool, self.stride)
        out: Tensor = self.drop(torch.log(x.clamp(min=LOG_FLOOR)))
        return out


class ShallowGroupExtractor(ShallowExtractor):
    """The shallow extractor with group norm, of one group, in place of batch norm: no trial sees another.

    Each trial is brought to mean 0 and deviation 1 over its filters and samples, so what is left of band power is how
    it is spread over filters. Differential privacy needs it: with batch norm, a trial moves the gradients of others.

    References
    ----------
    Wu and He 2018, "Group normalization", ECCV.
    """

    def _norm(self, n_filters: int) -> nn.Module:
        return nn.GroupNorm(1, n_filters)


class TangentExtractor(nn.Module):
    """A learned projection of re-centred covariances to a common size.

    It takes tangent vectors, not signals: `mfscsn.riemann` makes them of a trial, once, since nothing in them is
    learned.

    Parameters
    ----------
    n_chans, n_times : int
        Channels of the headset; samples of a trial.
    sfreq : float
        Sampling rate in Hz.
    band : pair of float, optional
        Hz: as in `mfscsn.riemann.bands_within`, which raises ValueError.
    n_features : int
        The common size.
    drop_prob : float
        Dropout of the features.
    """

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        sfreq: float,
        *,
        band: tuple[float, float] | None = None,
        n_features: int = 50,
        drop_prob: float = 0.5,
    ):
        super().__init__()
        self.n_features, self.n_steps = n_features, 1
        self.projection = nn.Linear(n_views(n_times, sfreq, band) * n_chans * (n_chans + 1) // 2, n_features)
        self.drop = nn.Dropout(drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        """Map tangent vectors ``(batch, n_views, n_pairs)`` to features ``(batch, n_features, 1)``."""
        out: Tensor = self.drop(self.projection(x.flatten(1))).unsqueeze(-1)
        return out


EXTRACTORS: dict[str, type[ShallowExtractor] | type[TangentExtractor]] = {
    "riemann": TangentExtractor,
    "shallow": ShallowExtractor,
    "shallow-group": ShallowGroupExtractor,
}
