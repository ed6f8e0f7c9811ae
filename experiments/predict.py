"""Predict: probabilities for the cued trials of recordings whose labels nobody knows."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, nearest
from data.files import write_csv
from data.preprocessing import Recording, cut_trials
from data.sources import open_source
from data.trials import Trials, concatenate
from experiments.alone import LinearSite
from experiments.decoder import Decoder
from experiments.evaluate import local_answers, local_network
from federation.common_layers import AdoptableLayers
from federation.contract import Contract, Dataset
from federation.run_folder import RunFolder
from federation.site_scores import fine_tuned, network_temperature
from federation.site_trials import Target
from mfscsn.branch import BranchTrials
from mfscsn.experts import averaged as at_one_scale
from mfscsn.inputs import Reference
from mfscsn.temperature import fitted_temperature, tempered
from mfscsn.training import predict

DIFFER = "bad_channels = 'interpolate' in the contract keeps all channels"


@dataclass(frozen=True)
class SubjectPredictions:
    """One subject's trials.

    Parameters
    ----------
    subject : str
    trials : Trials
        Their labels are the cues that they were cut at.
    probabilities : array, shape (n_trials, n_outputs)
    names : tuple of str
        Of the outputs.
    known : bool
        The subject is the site's own: aligned by its training trials. Else by the given trials themselves, all at once.
    """

    subject: str
    trials: Trials
    probabilities: NDArray[np.float64]
    names: tuple[str, ...]
    known: bool


class Model(ABC):
    """What tells the tasks of new recordings; `contract` says how they are cut."""

    contract: Contract

    @abstractmethod
    def channels(self, recording: Recording) -> Sequence[str] | None:
        """Return the channels to cut from a recording; None is all EEG. Raise InputError when it lacks some."""

    @abstractmethod
    def told(self, subject: str, trials: Trials) -> SubjectPredictions:
        """Predict one subject's trials; raise InputError when that cannot be."""


class FederatedModel(Model):
    """A site's network of a finished federation.

    Parameters
    ----------
    run : RunFolder
    site_name : str

    Raises
    ------
    InputError
        For a site that is not in the run, or that has no layers of it.
    """

    def __init__(self, run: RunFolder, site_name: str):
        self.network = run.load_network(site_name)
        self.run, self.contract = run, run.federation.contract
        self.site = next(site for site in run.federation.site if site.name == site_name)
        self.trials = run.trials(self.site)

    def channels(self, recording: Recording) -> Sequence[str]:
        """Return the channels of the site's data set of the same headset."""
        wanted: tuple[str, ...] = ()
        for wanted in self.trials.channels().values():
            if set(wanted) <= set(recording.raw.ch_names):
                return wanted
        missing = [name for name in wanted if name not in recording.raw.ch_names]
        raise InputError(
            f"{recording.where}: has no channel {', '.join(missing)}, which site {self.site.name!r} was trained on;"
            " `mfscsn adopt` trains first layers for another headset"
        )

    def told(self, subject: str, trials: Trials) -> SubjectPredictions:
        """Predict, aligned by the subject's own training trials or, where there are none, by the trials themselves."""
        headsets = self.trials.channels()
        dataset = next((d for d in self.site.dataset if headsets[d.name] == tuple(trials.channels)), None)
        if dataset is None:
            raise InputError(f"subject {subject!r}: other channels are left than site {self.site.name!r} has; {DIFFER}")
        names, own = dataset.labels(self.contract), self.trials.training_of(dataset.name, subject)
        if own is not None and not len(own):  # its calibration was shown without labels
            own = None
        if own is None and self.site.branch_by == "subject":
            raise InputError(
                f"site {self.site.name!r} has layers for each subject, and none for {subject!r}; `mfscsn adopt` it"
            )
        reference = aligned_by(self.contract, trials, own)
        target = Target(
            dataset=dataset.name,
            subject=subject,
            branch=self.trials.branch(dataset.name, subject),
            signals=reference.inputs(trials.signals, follow=own is not None),
            labels=np.full(len(trials), -1),
            outputs=np.arange(len(names)),
        )
        answers = tempered(self.answers(dataset, target, trials, own), self.temperature)
        return SubjectPredictions(subject, trials, answers, names, own is not None)

    @functools.cached_property
    def temperature(self) -> float:
        """The temperature that the site's held-out trials fit; 1 where none were held out."""
        return network_temperature(self.run.federation, self.trials, self.network)

    def answers(self, dataset: Dataset, target: Target, trials: Trials, own: Trials | None) -> NDArray[np.float64]:
        """Return probabilities ``(n_trials, n_outputs)``.

        Parameters
        ----------
        dataset : Dataset
            The site's of that headset.
        target : Target
            The trials as the network takes them.
        trials : Trials
            The same as recorded.
        own : Trials, optional
            What trains of the subject, if the site has any.
        """
        network = self.network
        if target.subject in dataset.targets:
            network = fine_tuned(self.run.federation, self.trials, network, target)
        return predict(network, target.signals, target.branch)


class OwnModel(FederatedModel):
    """What a site has without sharing: `local-site` of `experiments.evaluate`."""

    def __init__(self, run: RunFolder, site_name: str):
        super().__init__(run, site_name)
        self.network = local_network(run, self.site)
        self.linear = LinearSite(self.site, run.federation.contract, run.store)

    def answers(self, dataset: Dataset, target: Target, trials: Trials, own: Trials | None) -> NDArray[np.float64]:
        """As of `FederatedModel`: the mean of what the two say."""
        opened, pooled = self.linear.opened, self.linear.pooled[target.branch]
        reference = aligned_by(opened.contract, trials, own)
        vectors = replace(target, signals=reference.inputs(trials.signals, follow=own is not None))
        nothing = BranchTrials(pooled.signals[:0], pooled.labels[:0], pooled.names)
        calibration = opened.calibration(target.subject).get((target.dataset, target.subject), nothing)
        return at_one_scale(
            [
                (0.5, "network", super().answers(dataset, target, trials, own)),
                (0.5, "linear", self.linear.of_site(vectors, calibration)),
            ],
            target.outputs,
        )

    @functools.cached_property
    def temperature(self) -> float:
        """As of `FederatedModel`."""
        federation, held_out = self.run.federation, zip(self.trials.held_out(), self.linear.held_out(), strict=True)
        return fitted_temperature(
            [
                (local_answers(federation, self.trials, self.network, self.linear, target, *alone), target.labels)
                for target, alone in held_out
            ]
        )


class UnseenModel(Model):
    """Common layers of the common space, for a headset that was never part of the federation, without any label.

    The subject's signals fit its mean and the running averages of the norms; a head has its labels' rows.

    Parameters
    ----------
    common : AdoptableLayers
        Exported, or of a run.
    tasks : sequence of str
        The labels to tell apart, named as the federation names them.

    Raises
    ------
    InputError
        For common layers behind first layers of their own, or fewer than two tasks.
    """

    def __init__(self, common: AdoptableLayers, tasks: Sequence[str]):
        self.common, self.contract, self.tasks = common, common.contract, tuple(tasks)
        Decoder.of_common(common, (), self.tasks)  # now, not when recordings are read

    def channels(self, recording: Recording) -> None:
        """Return None: all EEG channels are carried to the common space."""

    def told(self, subject: str, trials: Trials) -> SubjectPredictions:
        """Predict, aligned by the trials themselves."""
        try:
            answers = Decoder.of_common(self.common, trials.channels, self.tasks).predict_proba(trials.signals)
        except ValueError as error:
            raise InputError(f"subject {subject!r}: {error}") from error
        return SubjectPredictions(subject, trials, answers, self.tasks, False)


def aligned_by(contract: Contract, trials: Trials, own: Trials | None) -> Reference:
    """Fit the alignment on what trains of a subject or, where there is nothing of it, on the trials themselves."""
    return contract.alignment_model.fit(trials.signals if own is None else own.signals, trials.channels)


def predict_recordings(
    model: Model,
    source: str,
    cues: Sequence[str],
    subjects: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[SubjectPredictions]:
    """Predict each subject's trials.

    Parameters
    ----------
    model : Model
    source : str
        As `data.sources.open_source` takes it.
    cues : sequence of str
        Annotations at which trials are cut; what they are called does not matter.
    subjects : sequence of str, optional
        All of the source when left out.
    options : mapping, optional
        Of the source.

    Raises
    ------
    InputError
        One line that names the subject or file.
    """
    opened = open_source(source, options)
    there = opened.subjects()
    for subject in subjects or there:
        if subject not in there:
            raise InputError(f"{source}: no such subject {subject!r}{nearest(subject, there)}")
        parts: list[Trials] = []
        seen: set[str] = set()
        for recording in opened.recordings(subject):
            seen |= recording.annotations()
            channels = model.channels(recording)
            part = cut_trials(recording, model.contract.preprocessing, {c: c for c in cues}, subject, channels)
            parts += [part] if len(part) else []
        if not parts:
            known = sorted(seen)
            raise InputError(f"{source}: subject {subject!r} has no trial at the cues {list(cues)}; there are {known}")
        try:
            joined = concatenate(parts)
        except ValueError as error:
            raise InputError(
                f"{source}: recordings of subject {subject!r} differ in their channels; {DIFFER}"
            ) from error
        yield model.told(subject, joined)


def write_predictions(path: Path, predictions: Sequence[SubjectPredictions]) -> None:
    """Write a row a trial: session, run, its place in that, onset in seconds, cue, probabilities, the likeliest."""
    names = list(dict.fromkeys(name for one in predictions for name in one.names))
    rows = []
    for one in predictions:
        t = one.trials
        counts: dict[tuple[str, str], int] = {}
        for k, probabilities in enumerate(one.probabilities):
            where = str(t.sessions[k]), str(t.runs[k])
            counts[where] = counts.get(where, -1) + 1
            by_name = dict(zip(one.names, probabilities, strict=True))
            shown = [f"{by_name[name]:.6f}" if name in by_name else "" for name in names]
            likeliest = one.names[int(probabilities.argmax())]
            onset = "" if np.isnan(t.known_onsets[k]) else f"{t.known_onsets[k]:.3f}"
            rows.append([one.subject, *where, counts[where], onset, t.labels[k], *shown, likeliest])
    told = [f"p_{name}" for name in names]
    write_csv(path, ["subject", "session", "run", "trial", "onset", "cue", *told, "predicted"], rows)
