"""`Decoder`: one person's trials in, probabilities out; the same model as `mfscsn predict`, from Python and online."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import InputError, nearest
from data.marks import is_mark
from data.plausible import found_unit, implausible
from data.preprocessing import Preprocessing, Recording, cut_trials
from data.trials import Trials
from federation.common_layers import AdoptableLayers, read_common
from federation.contract import Contract
from federation.run_folder import RunFolder
from federation.site_scores import fine_tuned, network_temperature
from federation.site_trials import Target
from mfscsn.branch import BranchTrials
from mfscsn.common_space import interpolation
from mfscsn.exported import SITE
from mfscsn.inputs import Reference
from mfscsn.settings import Settings
from mfscsn.split import SplitModule
from mfscsn.sums import OWN_WEIGHT, Summed
from mfscsn.temperature import tempered
from mfscsn.training import predict, rounds_of, train_round

WARM = 10  # first trials, on all of which so far the mean is fitted anew, where nothing was shown before
PASSES = 100  # over a person's own labelled trials: the head alone trains
Start = Callable[[NDArray[np.float32]], SplitModule]


class Decoder:
    """Tell the tasks of one person's trials.

    Trials are signals ``(n_trials, n_chans, n_times)`` in microvolts, filtered and cut as `preprocessing` says, in the
    order of `channels`. What is fitted on a person, a mean and no label, is fitted by `fit`, or on the trials
    themselves.

    Attributes
    ----------
    labels, channels : tuple of str
    preprocessing : data.preprocessing.Preprocessing
        Rate in Hz, window in seconds after the cue, band in Hz.
    temperature : float
        Of probabilities: fitted on the trials that a run's site held out, else 1.

    Examples
    --------
    >>> decoder = Decoder.from_file("common.safetensors", ["C3", "Cz", "C4"], ["left", "right"])  # doctest: +SKIP
    >>> decoder.predict_proba(signals)  # doctest: +SKIP
    """

    def __init__(self, contract: Contract, channels: Sequence[str], labels: Sequence[str], start: Start, branch: str):
        self.contract, self.channels, self.labels = contract, tuple(channels), tuple(labels)
        self._electrodes = _electrodes_of(contract, self.channels)
        self._start, self._branch = start, branch
        self.temperature = 1.0
        self._reference: Reference | None = None
        self._network: SplitModule | None = None
        self._shown: list[NDArray[np.float64]] = []  # signals that the mean is fitted on
        self._own: list[NDArray[np.float64]] = []  # labelled ones
        self._codes: list[int] = []
        self._warming: list[NDArray[np.float64]] = []

    @classmethod
    def from_file(cls, path: str | Path, channels: Sequence[str], labels: Sequence[str]) -> Self:
        """Open what `mfscsn export` wrote, for a headset that was never part of the federation.

        Parameters
        ----------
        path : path
            The file or its folder; a run's folder serves as well.
        channels : sequence of str
            Names of the electrodes, in the order of the signals.
        labels : sequence of str
            To tell apart, named as the federation names them.

        Raises
        ------
        InputError
            One line.
        """
        return cls.of_common(read_common(Path(path)), channels, labels)

    @classmethod
    def of_common(cls, common: AdoptableLayers, channels: Sequence[str], labels: Sequence[str]) -> Self:
        """Return a decoder around common layers of the common space."""
        if not common.contract.space:
            raise InputError(
                f"{common.name}: its headsets have first layers of their own, so a new one must train some:"
                " `mfscsn adopt`"
            )
        if len(set(labels)) < 2:
            raise InputError(f"tasks {', '.join(labels)}: name at least two, as the federation {common.name} does")

        unknown = [label for label in labels if common.labels and label not in common.labels]
        if unknown:
            raise InputError(
                f"{common.name}: knows the labels {', '.join(common.labels)}, not {', '.join(unknown)}; name them so"
            )

        return cls(common.contract, channels, labels, _AroundCommon(common, tuple(labels)), SITE)

    @classmethod
    def from_run(cls, run: RunFolder | str | Path, site: str, subject: str | None = None) -> Self:
        """Open a site's network of a finished run.

        Parameters
        ----------
        run : mfscsn.RunFolder or path
        site : str
        subject : str, optional
            A subject of the site: its own training trials fit the mean, and the settings' fine-tuning is its own. When
            left out, a person that is new to the site, whose headset is that of the site's first data set.

        Raises
        ------
        InputError
            For a site or a subject that is not in the run; one line.
        """
        opened = run if isinstance(run, RunFolder) else RunFolder(Path(run))
        network, contract = opened.load_network(site), opened.federation.contract
        of_site = next(one for one in opened.federation.site if one.name == site)
        trials = opened.trials(of_site)
        temperature = network_temperature(opened.federation, trials, network)
        known = [(d, name) for d in of_site.dataset for name in trials.subjects(d.name)]
        if subject is None and of_site.branch_by == "subject":
            raise InputError(f"site {site!r} has layers for each subject; say whose with subject=")
        if subject is not None and subject not in [name for _, name in known]:
            names = [name for _, name in known]
            raise InputError(f"{opened.path}: site {site!r} has no subject {subject!r}{nearest(subject, names)}")
        dataset, name = next(one for one in known if subject in (None, one[1]))
        branch = trials.branch(dataset.name, name)
        labels, own = dataset.labels(contract), trials.training_of(dataset.name, name) if subject is not None else None
        if subject is not None and subject in dataset.targets:
            none = np.empty((0,), np.int64)
            target = Target(dataset.name, subject, branch, np.empty((0,), np.float32), none, np.arange(len(labels)))
            network = fine_tuned(opened.federation, trials, network, target)
        decoder = cls(contract, trials.channels()[dataset.name], labels, _Copied(network), branch)
        decoder.temperature = temperature
        return decoder.fit(own.signals) if own is not None and len(own) else decoder

    def __repr__(self) -> str:
        p = self.preprocessing
        return (
            f"Decoder(labels={list(self.labels)}, {len(self.channels)} channels, {p.n_times} samples at {p.sfreq:g} Hz)"
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """How trials are cut: `data.preprocessing.cut_trials` takes it."""
        return self.contract.preprocessing

    def cut(self, raw: Any, cues: Sequence[str] | None = None) -> Trials:
        """Cut the trials of one recording at its annotations, as the federation cuts its own.

        Parameters
        ----------
        raw : mne.io.BaseRaw or mne.BaseEpochs
            Changed in place.
        cues : sequence of str, optional
            Annotations; all that mark nothing bad when left out.

        Returns
        -------
        data.trials.Trials
            Signals ``(n_trials, n_chans, n_times)`` in microvolts; labels are the cues.
        """
        recording = Recording(raw, "", "", "the recording").by_electrodes()
        wanted = cues if cues is not None else [n for n in recording.annotations() if not is_mark(n)]
        return cut_trials(recording, self.preprocessing, {cue: cue for cue in wanted}, "", self.channels)

    def fit(self, signals: ArrayLike) -> Self:
        """Fit the mean on a person's trials, without labels; trials that come later follow it."""
        self._shown = [self._checked(signals)]
        self._refit()
        return self

    def predict_proba(self, signals: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each label ``(n_trials, n_labels)`` of trials in time order.

        After `fit`, `partial_fit` or `decode` they are later trials and the mean follows them, for this call alone.
        Else they fit it themselves, all at once.
        """
        x = self._checked(signals)
        if self._reference is None or self._network is None:
            reference, network = self._fitted(x)
            return self._told(network, reference.inputs(x, follow=False))
        return self._told(self._network, self._reference.inputs(x, follow=True))

    def predict(self, signals: ArrayLike) -> NDArray[np.str_]:
        """Return the likeliest label of each trial; `predict_proba` says how likely."""
        chosen: NDArray[np.str_] = np.array(self.labels)[self.predict_proba(signals).argmax(axis=1)]
        return chosen

    def decode(self, trial: ArrayLike, *, follow: bool = True) -> NDArray[np.float64]:
        """Return the probability of each label of one trial ``(n_chans, n_times)``; the mean stays where it moved to.

        Where nothing was shown before, the mean is fitted on this trial and those before, up to the tenth, and follows
        from there.

        Parameters
        ----------
        trial : array, shape (n_chans, n_times)
            Microvolts.
        follow : bool
            Whether the mean moves: windows that overlap would move it several times.
        """
        x = self._checked(np.asarray(trial)[None])
        if not self._shown and not self._own and len(self._warming) < WARM and (follow or self._reference is None):
            self._warming.append(x[0])
            self._reference, self._network = self._fitted(np.stack(self._warming))
            inputs = self._reference.inputs(x, follow=False)
        else:
            assert self._reference is not None
            moved = self._reference.moved(x)
            inputs = moved.inputs(x, follow=False)
            self._reference = moved if follow else self._reference
        assert self._network is not None
        answer: NDArray[np.float64] = self._told(self._network, inputs)[0]
        return answer

    def partial_fit(self, signals: ArrayLike, labels: Sequence[str]) -> Self:
        """Learn from labelled trials, together with all that this was given before; the common layers stay.

        Parameters
        ----------
        signals : array, shape (n_trials, n_chans, n_times)
            Microvolts.
        labels : sequence of str

        Raises
        ------
        InputError
            For a label that is none of `labels`.
        """
        x = self._checked(signals)
        for label in labels:
            if label not in self.labels:
                raise InputError(f"label {label!r}: expected one of {', '.join(self.labels)}")
        if len(labels) != len(x):
            raise InputError(f"{len(labels)} labels for {len(x)} trials")
        self._own += list(x)
        self._codes += [self.labels.index(label) for label in labels]
        self._refit()
        return self

    def _told(self, network: SplitModule, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        return tempered(predict(network, inputs, self._branch), self.temperature)

    def _refit(self) -> None:
        own = np.stack(self._own) if self._own else np.empty((0, *self._shown[0].shape[1:]))
        self._reference, self._network = self._fitted(np.concatenate([*self._shown, own]))
        if len(set(self._codes)) > 1:  # of one task alone nothing can be told apart
            inputs = self._reference.inputs(own, follow=False)
            trials = BranchTrials(inputs, np.array(self._codes, np.int64), self.labels, np.full(len(own), SITE))
            self._network = _with_head(self._network, trials, self._branch)

    def _fitted(self, signals: NDArray[np.float64]) -> tuple[Reference, SplitModule]:
        try:
            reference = self.contract.alignment_model.fit(signals, self._electrodes)
        except ValueError as error:
            raise InputError(str(error)) from error
        return reference, self._start(reference.inputs(signals, follow=False))

    def _checked(self, signals: ArrayLike) -> NDArray[np.float64]:
        x = np.asarray(signals, dtype=np.float64)
        n_chans, n_times = len(self.channels), self.preprocessing.n_times
        if x.ndim != 3 or x.shape[1:] != (n_chans, n_times) or not len(x):
            p = self.preprocessing
            raise InputError(
                f"signals have shape {x.shape}; expected (n_trials, {n_chans} channels, {n_times} samples:"
                f" {p.window[0]:g} to {p.window[1]:g} s after the cue at {p.sfreq:g} Hz)"
            )
        if not np.isfinite(x).all():
            raise InputError("signals hold NaN or infinite samples")
        still = np.ptp(x, axis=2) == 0
        if still.all(axis=1).any():
            raise InputError(f"trial {int(still.all(axis=1).argmax())} is flat in all channels; leave it out")
        if still.all(axis=0).any():
            name = self.channels[int(still.all(axis=0).argmax())]
            raise InputError(
                f"channel {name!r} is flat in all trials; make a decoder without it, or mend the recording"
            )
        if fault := implausible(x):
            volts = "; they look like volts, and microvolts are expected: 1e6 times as much" * (
                found_unit(x) == "volts"
            )
            raise InputError(f"signals: {fault.removeprefix('its channels ')}{volts}")
        return x


@dataclass(frozen=True)
class _AroundCommon:
    """Makes a network around common layers, whose norms are fitted on a person's inputs."""

    common: AdoptableLayers
    labels: tuple[str, ...]

    def __call__(self, inputs: NDArray[np.float32]) -> SplitModule:
        return self.common.network_for(self.labels, inputs)


@dataclass(frozen=True)
class _Copied:
    """Copies a network that is whole already."""

    network: SplitModule

    def __call__(self, inputs: NDArray[np.float32]) -> SplitModule:
        return copy.deepcopy(self.network)


def _electrodes_of(contract: Contract, channels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the electrodes of channels as the common space knows them; those that it does not are named at once."""
    if len(set(channels)) < len(channels):
        twice = next(name for name in channels if channels.count(name) > 1)
        raise InputError(f"channel {twice!r} stands there twice")
    if not contract.space:
        return channels
    from data.channel_names import plain_names  # MNE's names of electrodes, where an amplifier's are to be seen through

    try:
        interpolation(channels, contract.space)
    except ValueError:  # an amplifier's names, which tell electrodes
        plain = plain_names(channels)
        channels = tuple(plain.get(name, name) for name in channels)
        try:
            interpolation(channels, contract.space)
        except ValueError as error:
            raise InputError(
                f"{error}; name channels by the extended 10-20 system, such as C3, or leave them out"
            ) from error
    return channels


def _with_head(network: SplitModule, trials: BranchTrials, branch: str) -> SplitModule:
    """Return a copy that has learned from a person's own trials: in its private layers, or by sums that weigh more."""
    if isinstance(network, Summed):
        return network.with_own(trials, OWN_WEIGHT)
    settings = Settings(rounds=PASSES, local_epochs=0, private_first=1)
    own, state = copy.deepcopy(network), None
    for number, now in rounds_of(settings):
        _, state = train_round(own, {branch: trials}, now, seed=number, optimiser_state=state)
    return own
