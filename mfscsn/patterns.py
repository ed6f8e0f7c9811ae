"""What a site's network looks at: patterns over its electrodes, and frequency responses of its filters.

A pattern says how the recorded signal changes with what a network computes; a filter's own weights do not say that,
since they also cancel noise. Haufe et al. 2014, NeuroImage 87:96-110: with one output s, the pattern is
``Cov(x, s) / Var(s)``; here it is scaled to one standard deviation of s, so that it has the unit of x.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mfscsn.extractors import ShallowExtractor
from mfscsn.network import SeparateCommonSeparate
from mfscsn.split import SplitModule

BANDS = {"mu, 8 to 13 Hz": (8.0, 13.0), "beta, 13 to 30 Hz": (13.0, 30.0)}
N_TRIALS = 200  # of the signals themselves, for patterns of filters: enough, and quick


@dataclass(frozen=True)
class FilterPattern:
    """One filter of a convolutional extractor.

    Parameters
    ----------
    number : int
        Which of the extractor's outputs.
    pattern : array, shape (n_chans,)
        Microvolts for one standard deviation of the filter's output.
    response : array, shape (n_freqs,)
        Gain at `frequencies`, root mean square over channels, at most 1.
    """

    number: int
    pattern: NDArray[np.float64]
    response: NDArray[np.float64]


def haufe(x: NDArray[np.floating], s: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the pattern of each output: how `x` changes with one standard deviation of it.

    Parameters
    ----------
    x : array, shape (n_trials, n_features)
    s : array, shape (n_trials, n_outputs)

    Returns
    -------
    array, shape (n_outputs, n_features)
        In the unit of `x`; 0 for an output that never changes.
    """
    x, s = x - x.mean(axis=0), s - s.mean(axis=0)
    deviation = s.std(axis=0)
    pattern: NDArray[np.float64] = (s.T @ x) / len(x) / np.where(deviation > 0, deviation, 1.0)[:, None]
    return pattern


def log_power(signals: NDArray[np.floating], sfreq: float, band: tuple[float, float]) -> NDArray[np.float64]:
    """Return the power of signals ``(n_trials, n_chans, n_times)`` in a band of Hz, in dB: ``(n_trials, n_chans)``."""
    centred = signals - signals.mean(axis=-1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred * np.hanning(signals.shape[-1]), axis=-1)) ** 2
    frequencies = np.fft.rfftfreq(signals.shape[-1], 1 / sfreq)
    inside = (frequencies >= band[0]) & (frequencies <= band[1])
    power: NDArray[np.float64] = 10 * np.log10(spectrum[..., inside].mean(axis=-1) + 1e-12)
    return power


def label_patterns(
    network: SplitModule,
    branch: str,
    inputs: NDArray[np.float32],
    recorded: Sequence[NDArray[np.floating]],
    sfreq: float,
) -> NDArray[np.float64]:
    """Give, for each output, how band power changes with it: dB for one standard deviation of its logit.

    Parameters
    ----------
    network : SplitModule
    branch : str
    inputs : array
        Trials as the extractor takes them.
    recorded : sequence of array, each (n_trials, n_chans, n_times)
        The same trials as recorded, a subject after another: what tells subjects apart is taken out.
    sfreq : float

    Returns
    -------
    array, shape (n_outputs, n_bands, n_chans)
        Bands as in `BANDS`.
    """
    network.eval()
    with torch.inference_mode():
        parts = [network(torch.from_numpy(np.array(part)), branch) for part in np.array_split(inputs, len(recorded))]
    logits = torch.cat(parts).double().numpy()
    logits -= logits.mean(axis=1, keepdims=True)
    ends = np.cumsum([len(signals) for signals in recorded])[:-1]
    # Without each subject's own mean in the outputs, what tells subjects apart has no part in the covariance
    outputs = np.concatenate([part - part.mean(axis=0) for part in np.split(logits, ends) if len(part)])
    powers = [np.concatenate([log_power(signals, sfreq, band) for signals in recorded]) for band in BANDS.values()]
    return np.stack([haufe(power, outputs) for power in powers], axis=1)


def frequencies(sfreq: float, upper: float) -> NDArray[np.float64]:
    """Return the frequencies, up to `upper` Hz, at which a filter's response is told."""
    return np.arange(0.0, min(upper, sfreq / 2) + 0.25, 0.5)


def filter_patterns(
    network: SplitModule,
    branch: str,
    inputs: NDArray[np.float32],
    recorded: Sequence[NDArray[np.floating]],
    sfreq: float,
    upper: float,
    n_filters: int = 4,
) -> list[FilterPattern]:
    """Return the filters of a convolutional extractor that move the common layers most; none for another extractor.

    Parameters
    ----------
    inputs : array, shape (n_trials, n_chans, n_times)
        Trials as the extractor takes them.
    recorded : sequence of array, each (n_trials, n_chans, n_times)
        The same trials as recorded, a subject after another.
    sfreq, upper : float
        Hz; the highest frequency of the responses.
    """
    if not isinstance(network, SeparateCommonSeparate):
        return []
    extractor = network.extractors[network.extractor_of[branch]]
    if not isinstance(extractor, ShallowExtractor):
        return []
    some = np.linspace(0, len(inputs) - 1, min(N_TRIALS, len(inputs))).astype(int)
    network.eval()
    with torch.inference_mode():
        x = torch.from_numpy(np.array(inputs[some]))
        outputs = extractor.filters(x).double().numpy()  # (n_trials, n_filters, n_times - kernel + 1)
        features = extractor(x).flatten(1)
        weights = network.common[0].get_parameter("weight")  # (width, n_filters * n_steps)
        moved = (features.std(dim=0) * weights.square().sum(dim=0).sqrt()).reshape(extractor.n_features, -1)
        kernel = torch.einsum("ofc,fk->ock", extractor.filters.spatial, extractor.filters.temporal).double().numpy()
    chosen = np.argsort(-moved.square().sum(dim=1).numpy())[:n_filters]
    late = (kernel.shape[-1] - 1) // 2  # what comes out stands for the middle of the filter
    seen = np.concatenate(recorded)[some][..., late : late + outputs.shape[-1]]
    rows = seen.swapaxes(1, 2).reshape(-1, seen.shape[1])
    of_time = np.arange(kernel.shape[-1])
    waves = np.exp(-2j * np.pi * np.outer(frequencies(sfreq, upper) / sfreq, of_time))  # (n_freqs, kernel)
    patterns = []
    for number in chosen.tolist():
        gain = np.sqrt((np.abs(kernel[number] @ waves.T) ** 2).mean(axis=0))
        pattern = haufe(rows, outputs[:, number].reshape(-1, 1))[0]
        patterns.append(FilterPattern(number, pattern, gain / max(gain.max(), 1e-12)))
    return patterns
