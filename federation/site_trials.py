"""A site's trials as the network sees them: split into training and test, aligned, labelled by number.

Training trials are all of a source subject's and a target subject's calibration; nothing that is fitted sees others.
"""

import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from data.errors import InputError
from data.files import kept_array
from data.store import INPUTS, Store
from data.trials import UNLABELLED, Trials, in_order
from federation.contract import Contract, Dataset, Part, Site
from mfscsn import common_space, riemann
from mfscsn.branch import Branch, BranchTrials
from mfscsn.choices import MEANS


@dataclass(frozen=True)
class Target:
    """A target subject's test trials, or those that were held out of its calibration.

    Parameters
    ----------
    dataset, subject, branch : str
    signals : array, shape (n_trials, n_chans, n_times), float32
        Aligned by what was fitted on the subject's calibration.
    labels : array of int, shape (n_trials,)
        -1 where a trial is unlabelled.
    outputs : array of int
        The outputs that may be predicted: the tasks of the subject's calibration or, where that holds one task alone,
        all of its data set.
    """

    dataset: str
    subject: str
    branch: str
    signals: NDArray[np.float32]
    labels: NDArray[np.int64]
    outputs: NDArray[np.int64]


@dataclass(frozen=True)
class _Subject:
    dataset: Dataset
    name: str
    trials: Trials
    digest: str
    train: NDArray[np.bool_]
    fitted: NDArray[np.bool_]  # what its mean is fitted on: those or, where none trains, calibration's signals
    held_out: NDArray[np.bool_]
    test: NDArray[np.bool_]


Split = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]
Chosen = tuple[_Subject, NDArray[np.bool_], NDArray[np.bool_]]  # a subject, its trials to use, those to fit on


def branch_names(site: Site, subjects: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Name the branch that the trials of each (data set, subject) of a site go through.

    Of subjects whose names would come out alike, such as p.1 and p_1, each has a digest behind its own.
    """
    if site.branch_by == "dataset":
        return {one: one[0] for one in subjects}
    plain = {(dataset, subject): f"{dataset}-{subject}".replace(".", "_") for dataset, subject in subjects}
    often = Counter(plain.values())
    return {
        one: name if often[name] == 1 else f"{name}-{hashlib.sha256(repr(one).encode()).hexdigest()[:8]}"
        for one, name in plain.items()
    }


class SiteTrials:
    """The prepared trials of one site, opened: manifests are read once, signals when they are asked for.

    Parameters
    ----------
    site : Site
    contract : Contract
    store : Path
        The folder of stores.
    """

    def __init__(self, site: Site, contract: Contract, store: Path):
        self.site, self.contract, self.store = site, contract, store

    def training(self) -> dict[str, BranchTrials]:
        """Load all trials that train at the site, by branch.

        Raises
        ------
        InputError
            When a store is missing or damaged, a split does not fit the recordings, or a branch has one class only.
        """
        self.check()
        return {
            branch: BranchTrials(
                self._inputs([(subject, subject.train, subject.fitted) for subject in subjects]),
                np.concatenate([self._codes(subject, subject.train) for subject in subjects]),
                subjects[0].dataset.labels(self.contract),
                np.concatenate([_persons(subject) for subject in subjects]),
            )
            for branch, subjects in self._of_branch().items()
        }

    def training_signals(self) -> dict[str, list[Trials]]:
        """Open the recorded signals of the trials that train, by branch: a subject after another, as `training`."""
        return {
            branch: [subject.trials[subject.train] for subject in subjects]
            for branch, subjects in self._of_branch().items()
        }

    def training_runs(self) -> dict[str, NDArray[np.str_]]:
        """Name the run of each trial that trains, by branch: ``"subject/session/run"``, in the order of `training`."""
        return {
            branch: np.array(
                [
                    f"{subject.name}/{session}/{run}"
                    for subject in subjects
                    for session, run in zip(
                        subject.trials.sessions[subject.train], subject.trials.runs[subject.train], strict=True
                    )
                ]
            )
            for branch, subjects in self._of_branch().items()
        }

    def training_of(self, dataset: str, name: str) -> Trials | None:
        """Open what trains of one subject, as recorded; None for a subject that the site does not have."""
        for subject in self._subjects:
            if (subject.dataset.name, subject.name) == (dataset, name):
                return subject.trials[subject.train]
        return None

    def tested_of(self, dataset: str, name: str) -> Trials:
        """Open what is tested of one target subject, as recorded."""
        (found,) = [s for s in self._subjects if (s.dataset.name, s.name) == (dataset, name)]
        return found.trials[found.test]

    def calibration(self, only: str | None = None) -> dict[tuple[str, str], BranchTrials]:
        """Load each target subject's calibration alone, or `only` one's: (data set, subject) -> trials."""
        return {
            (subject.dataset.name, subject.name): BranchTrials(
                self._inputs([(subject, subject.train, subject.fitted)]),
                self._codes(subject, subject.train),
                subject.dataset.labels(self.contract),
                _persons(subject),
            )
            for subject in self._subjects
            if subject.test.any() and only in (None, subject.name)
        }

    def targets(self, transductive: bool = False) -> Iterator[Target]:
        """Load the test trials of each target subject, in the order of the site's file.

        Their alignment is fitted on the subject's calibration; on the test trials themselves, without their labels,
        when `transductive`: that needs all of them at once, so it is another, easier task, and scores must say so.
        """
        for subject in self._subjects:
            if subject.test.any():
                yield self._target(subject, subject.test, subject.test if transductive else subject.fitted)

    def held_out(self) -> Iterator[Target]:
        """Load the trials that were held out of each target subject's calibration, aligned as `targets`."""
        for subject in self._subjects:
            if subject.held_out.any():
                yield self._target(subject, subject.held_out, subject.fitted)

    def _target(self, subject: _Subject, chosen: NDArray[np.bool_], fitted: NDArray[np.bool_]) -> Target:
        codes = np.unique(self._codes(subject, subject.train))  # test labels have no say in what is predicted
        if len(codes) < 2:
            codes = np.arange(len(subject.dataset.labels(self.contract)))
        return Target(
            dataset=subject.dataset.name,
            subject=subject.name,
            branch=self.branch(subject.dataset.name, subject.name),
            signals=self._inputs([(subject, chosen, fitted)]),
            labels=self._codes(subject, chosen),
            outputs=codes,
        )

    def branches(self) -> dict[str, Branch]:
        """Return the shape of each branch without reading a signal."""
        return {
            self.branch(subject.dataset.name, subject.name): Branch(len(subject.trials.channels), len(labels), labels)
            for subject in self._subjects
            for labels in [subject.dataset.labels(self.contract)]
        }

    def channels(self) -> dict[str, tuple[str, ...]]:
        """Return the channel names of each data set, without reading a signal."""
        return {subject.dataset.name: subject.trials.channels for subject in self._subjects}

    def branch(self, dataset: str, subject: str) -> str:
        """Name the branch of a subject; of one that the site does not have, as it would be."""
        known = self._branch_names
        return known.get((dataset, subject)) or branch_names(self.site, [*known, (dataset, subject)])[dataset, subject]

    @functools.cached_property
    def _branch_names(self) -> dict[tuple[str, str], str]:
        return branch_names(self.site, [(one.dataset.name, one.name) for one in self._subjects])

    def subjects(self, dataset: str) -> list[str]:
        """Name the subjects of a data set."""
        return [subject.name for subject in self._subjects if subject.dataset.name == dataset]

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return the label names of each branch, in the order of its head's outputs."""
        return {
            self.branch(subject.dataset.name, subject.name): subject.dataset.labels(self.contract)
            for subject in self._subjects
        }

    def n_training(self) -> int:
        """Count the trials that train at the site, without reading a signal."""
        return sum(int(subject.train.sum()) for subject in self._subjects)

    def check(self) -> None:
        """Check that every split fits and every branch has two classes to train on; raise InputError if not."""
        if self.contract.body == MEANS:  # who has one label says nothing there; a refusal would tell who is missing
            return
        for branch, subjects in self._of_branch().items():
            classes = sorted({label for subject in subjects for label in subject.trials.labels[subject.train].tolist()})
            if len(classes) < 2:
                raise InputError(
                    f"site {self.site.name!r}: the training trials of {branch!r} hold the one class {classes};"
                    " at least two are needed: mend tasks, subjects or calibration"
                )

    def check_labelled(self) -> None:
        """Check that all test trials have labels, so that they can be scored; raise InputError if not."""
        for subject in self._subjects:
            if (subject.trials.labels[subject.test] == UNLABELLED).any():
                raise InputError(
                    f"site {self.site.name!r}, data set {subject.dataset.name!r}, target {subject.name!r}: its test"
                    " trials have no labels, so nothing can be scored; `mfscsn beetl run` predicts those of BEETL"
                )

    def digest(self) -> str:
        """Digest all trials that a site's file names, so that a run can tell when they have changed under it."""
        known = [
            (dataset.name, name, store.digest(name))
            for dataset, store in self._stores
            for name in dataset.used(store.subjects())
        ]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    @functools.cached_property
    def _stores(self) -> list[tuple[Dataset, Store]]:
        return [(dataset, Store(dataset.recipe(self.contract).folder(self.store))) for dataset in self.site.dataset]

    @functools.cached_property
    def _subjects(self) -> list[_Subject]:
        subjects = []
        for dataset, store in self._stores:
            channels: tuple[str, ...] = ()
            for name in dataset.used(store.subjects()):
                trials = store.trials(name)
                if not channels:
                    channels = trials.channels
                    _check_positions(self.site, dataset, channels, self.contract)
                try:
                    trials = in_order(trials, channels)
                except ValueError as error:
                    raise InputError(
                        f"site {self.site.name!r}, data set {dataset.name!r}: subject {name!r} differs from the first"
                        f" one: {error}; name those to use with channels = [...]"
                    ) from error
                if name in dataset.targets:
                    split = _split(self.site, dataset, name, trials)
                else:
                    train, none = trials.labels != UNLABELLED, np.zeros(len(trials), bool)
                    split = train, train, none, none
                subjects.append(_Subject(dataset, name, trials, store.digest(name), *split))
        return subjects

    def _of_branch(self) -> dict[str, list[_Subject]]:
        of_branch: dict[str, list[_Subject]] = {}
        for subject in self._subjects:
            of_branch.setdefault(self.branch(subject.dataset.name, subject.name), []).append(subject)
        return of_branch

    def _codes(self, subject: _Subject, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        code = {name: k for k, name in enumerate(subject.dataset.labels(self.contract))} | {UNLABELLED: -1}
        return np.array([code[label] for label in subject.trials.labels[chosen].tolist()], dtype=np.int64)

    def _inputs(self, parts: Sequence[Chosen]) -> NDArray[np.float32]:
        """Return the chosen trials of subjects, one after another, as the extractor takes them.

        Nothing of it is learned in training: made once, it serves every round, and all processes share its pages.
        """
        made_of = [
            [subject.digest, subject.trials.channels, chosen.tolist(), fitted.tolist()]
            + [[other.digest, other.train.tolist()] for other in self._others(subject, fitted)]
            for subject, chosen, fitted in parts
        ]
        c = self.contract
        how: list[object] = [c.extractor, c.alignment, c.shrinkage, c.band, riemann.VERSION]
        if c.space:
            how += [common_space.VERSION, c.space, "tangent" if c.alignment_model.tangent else c.body]
        name = hashlib.sha256(json.dumps([made_of, how]).encode()).hexdigest()[:32]

        def make() -> NDArray[np.float32]:
            with threadpool_limits(limits=1, user_api="blas"):  # how sums are rounded must not depend on who makes it
                return np.concatenate([self._input(*part) for part in parts])

        folder = parts[0][0].dataset.recipe(c).folder(self.store)  # they go when a subject of that store does
        return kept_array(folder / INPUTS / f"{name}.npy", make)

    def _others(self, subject: _Subject, fitted: NDArray[np.bool_]) -> list[_Subject]:
        """List the subjects that a mean is fitted on in place of one that has shown nothing; else none."""
        if fitted.any():
            return []
        others = [other for other in self._subjects if other.dataset == subject.dataset and other.train.any()]
        if not others:
            raise InputError(
                f"site {self.site.name!r}, data set {subject.dataset.name!r}: target {subject.name!r} shows nothing,"
                " and no other subject is there to begin with; give calibration = { runs = [...], first = 0 }"
            )
        return others

    def _input(self, subject: _Subject, chosen: NDArray[np.bool_], fitted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Align the chosen trials by what is fitted on others."""
        seen = [subject.trials.signals[fitted]]
        seen += [other.trials.signals[other.train] for other in self._others(subject, fitted)]
        reference = self.contract.alignment_model.fit(np.concatenate(seen), subject.trials.channels)
        later = chosen.any() and not (chosen & fitted).any()  # trials that come in time behind those fitted on
        return reference.inputs(subject.trials.signals[chosen], follow=bool(later))


def _persons(subject: _Subject) -> NDArray[np.str_]:
    """Name whose each trial that trains is."""
    return np.full(int(subject.train.sum()), f"{subject.dataset.name}/{subject.name}")


def _check_positions(site: Site, dataset: Dataset, channels: Sequence[str], contract: Contract) -> None:
    """Refuse channels that the common space cannot place."""
    try:
        common_space.positions(channels if contract.space else [])
    except ValueError as error:
        raise InputError(
            f"site {site.name!r}, data set {dataset.name!r}: {error}; the common space needs one: rename the channels,"
            " or name those to use with channels = [...]"
        ) from error


def _split(site: Site, dataset: Dataset, subject: str, trials: Trials) -> Split:
    """Return which of a target's trials train, which its mean is fitted on, which are held out, and its test."""
    where = f"site {site.name!r}, data set {dataset.name!r}, target {subject!r}"
    assert dataset.calibration is not None
    train = _mask(dataset.calibration, trials)
    shown = dataset.calibration
    if not shown.shows_nothing:
        shown = shown.model_copy(update={"first": shown.first or None})
    fitted = _mask(shown, trials)
    held_out = np.zeros(len(trials), bool) if dataset.held_out is None else _mask(dataset.held_out, trials)
    test = ~fitted & ~held_out if dataset.test == "rest" else _mask(dataset.test, trials)
    for part, mask, cannot in (("calibration", train, "train"), ("held_out", held_out, "be scored")):
        unknown = int((trials.labels[mask] == UNLABELLED).sum())
        if unknown:
            raise InputError(f"{where}: {unknown} {part} trials have no label, so they cannot {cannot}; name others")
    if train.all():
        raise InputError(f"{where}: calibration takes all {len(trials)} trials and leaves none to test; name fewer")
    for part, mask, rule in (
        ("calibration", fitted, shown),
        ("held_out", held_out, dataset.held_out),
        ("test", test, dataset.test),
    ):
        if rule is not None and not mask.any() and not (part == "calibration" and shown.shows_nothing):
            chosen = rule.model_dump(exclude_none=True) if isinstance(rule, Part) else rule
            runs = ", ".join(dict.fromkeys(trials.runs.tolist()))
            raise InputError(
                f"{where}: {part} = {chosen} chooses no trial; there are {len(trials)} trials in the runs {runs}"
            )
    for (part, mask), (rival, other) in itertools.combinations(
        (("calibration", fitted), ("held_out", held_out), ("test", test)), 2
    ):
        if (mask & other).any():
            raise InputError(f"{where}: {int((mask & other).sum())} trials are in {part} and in {rival}; part them")
    return train, fitted, held_out, test


def _mask(part: Part, trials: Trials) -> NDArray[np.bool_]:
    mask = np.ones(len(trials), bool)
    if part.runs is not None:
        mask = np.isin(trials.runs, part.runs)
    elif part.sessions is not None:
        mask = np.isin(trials.sessions, part.sessions)
    place = np.cumsum(mask)  # from 1
    return (
        mask
        & (place > (part.after or 0))
        & (place <= (len(trials) if part.first is None else part.first) + (part.after or 0))
    )
