"""The contract of a federation, its training, its sites and their data sets: the tables of a FED.toml."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from data.errors import InputError, nearest
from data.preprocessing import Preprocessing
from data.sources import ON_DISK
from data.store import Recipe
from federation.messages import FEWEST
from federation.tables import Table, as_name, parse_table, read_toml
from mfscsn.branch import Branch
from mfscsn.choices import COMMON_SPACE, MEANS, SHARES_EXTRACTOR, SHARES_HEAD, SUMS, Share
from mfscsn.common_space import electrode_names
from mfscsn.inputs import Alignment, check_alignment
from mfscsn.settings import Settings

if TYPE_CHECKING:
    from mfscsn.network import Architecture

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]
SubjectName = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]


UNBUILT = ContextVar("unbuilt", default=False)


@contextmanager
def unbuilt() -> Iterator[None]:
    """Read contracts in this block without building their network: for commands that train nothing, as torch is slow.

    Whoever trains reads the contract again, and sees then whether its window is long enough for its body.
    """
    token = UNBUILT.set(True)
    try:
        yield
    finally:
        UNBUILT.reset(token)


def _all_different(names: Sequence[str], what: str) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise ValueError(f"{what}: {name!r} stands there twice")


def _numbers_as_text(value: Any, keys: Sequence[str]) -> Any:
    """Take numbers in lists of names for names: 1 is how MOABB calls a subject, and what a run is called in BIDS."""
    if not isinstance(value, dict):
        return value
    value = dict(value)
    for key in keys:
        if isinstance(value.get(key), list):
            value[key] = [str(n) if isinstance(n, int) and not isinstance(n, bool) else n for n in value[key]]
    return value


FOLLOWING = ("riemann", COMMON_SPACE)  # extractors behind a mean that can follow a session
ONE_MESSAGE = "one-message"  # a strategy: each site sends sums, once
ROBUST = ("fedmedian", "fedtrimmedavg", "krum")  # strategies that look at single updates


def _is_one_message(values: Mapping[str, Any]) -> bool:
    return values.get("strategy") == ONE_MESSAGE


class Contract(Table):
    """What all sites must agree on.

    Parameters
    ----------
    sfreq, window, band
        As in `data.preprocessing.Preprocessing`: Hz, seconds after the cue, Hz.
    reference, bad_channels, reject, filter
        Of the same: "recorded", "average" or channels; "keep", "drop" or "interpolate"; microvolts; "zero-phase", or
        "causal" where the network is to decode while trials are imagined.
    alignment : {"recentred", "adaptive", "euclidean", "standard", "none"}
        What is fitted is fitted at the site, on a subject's training trials. The extractors "common-space" and
        "riemann" take "recentred" trials or "adaptive" ones (the default with them), whose mean then follows the test
        trials as they come, one after another, without their labels. The shallow ones take "euclidean" (the default
        with them), which whitens, or "standard", which brings every sample to mean 0 and deviation 1 over the channels,
        and fits nothing.
    shrinkage : float
        Of Euclidean alignment, 0 to 1: as in `mfscsn.alignment.euclidean_whitener`.
    extractor, width, share, body
        As in `mfscsn.network.Architecture`.
    electrodes : str or list of str
        Of the common space: a set of `mfscsn.common_space.ELECTRODES`, or names of the extended 10-20 system. When
        left out "motor21", and "motor11" with "one-message", whose message grows with the fourth power of their number.
    heads : {"site", "label"}
        What a head's first weights are drawn from: the site's own seed or, "label", the run's seed and the label's
        name. With "label", sites that have a label in common begin with the same output for it, and tell nobody.
    channels, labels : list of str, optional
        One channel list that every site has, and one label list; which of them `share` needs is said there.
    strategy : {"fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg", "krum", "one-message"}
        Flower's own, and one of ours. `proximal_mu` is FedProx's, `server_lr` FedAdam's, `n_byzantine` how many
        Byzantine sites the trimmed mean and Krum bear. "one-message" adds the sums that each site sends once
        (`mfscsn.sums`): `body` is then "sums" or, of a person one short vector, "means".
    noise_multiplier, person_norm : float
        Of "means": the deviation of the noise in the sites' sum, over `person_norm`, 0 is none; and `person_norm`, the
        greatest length of what a person says. Each site adds its part of the noise (`federation.privacy.persons`).
    weighting : {"trials", "equal"}
        How sites weigh in the average. With "equal", the number of trials is not sent either.
    min_sites : int, optional
        Sites that must answer a round; 2 when left out, or 1 where there is one site.
    deadline : float
        Seconds that a round may take; with `secure_aggregation`, each of its four stages.
    secure_aggregation : bool
        The server sees the sites' sum alone: `federation.privacy.secagg`. At least 4 sites. With "one-message" it is
        so unless false stands there: a single site's sums show the span of its trials.
    """

    sfreq: Positive = 128.0
    window: tuple[float, float] = (0.25, 3.5)
    band: tuple[Positive, Positive] = (4.0, 38.0)
    reference: Literal["recorded", "average"] | Annotated[list[str], Field(min_length=1)] = "recorded"
    bad_channels: Literal["keep", "drop", "interpolate"] = "keep"
    reject: Positive | None = None
    filter: Literal["zero-phase", "causal"] = "zero-phase"
    extractor: Literal["common-space", "riemann", "shallow", "shallow-group"] = "common-space"
    alignment: Literal["recentred", "adaptive", "euclidean", "standard", "none"] = Field(
        default_factory=lambda data: "adaptive" if data.get("extractor") in FOLLOWING else "euclidean"
    )
    shrinkage: float = Field(0.0, ge=0, le=1)
    width: int = Field(50, ge=1)
    share: Share = "middle"
    strategy: Literal["fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg", "krum", "one-message"] = "fedavg"
    electrodes: str | list[str] = Field(default_factory=lambda data: "motor11" if _is_one_message(data) else "motor21")
    body: str = Field(default_factory=lambda data: SUMS if _is_one_message(data) else "eegnet")
    heads: Literal["site", "label"] = Field(
        default_factory=lambda data: "label" if data.get("extractor") == COMMON_SPACE else "site"
    )
    channels: list[str] | None = Field(None, min_length=1)
    labels: list[str] | None = Field(None, min_length=2)
    proximal_mu: float = Field(0.01, ge=0)
    server_lr: Positive = 0.01
    n_byzantine: int = Field(1, ge=1)
    weighting: Literal["trials", "equal"] = Field(
        default_factory=lambda data: "equal" if _is_one_message(data) else "trials"
    )
    min_sites: int | None = Field(None, ge=1)
    deadline: Positive = 3600.0
    secure_aggregation: bool = Field(default_factory=lambda data: _is_one_message(data))
    noise_multiplier: float = Field(0.0, ge=0)
    person_norm: Positive = 1.5

    @model_validator(mode="after")
    def _check(self) -> "Contract":
        if self.secure_aggregation and self.strategy in ROBUST:
            raise ValueError(
                f"secure_aggregation shows the server a sum alone, and {self.strategy} needs each site's update"
            )
        if self.secure_aggregation and self.share == "none":
            raise ValueError("secure_aggregation: with share = 'none' nothing is shared that it could hide")
        check_alignment(self.alignment, self.extractor)
        if self.window[1] <= self.window[0]:
            raise ValueError(f"window {list(self.window)} ends before it starts")
        if self.band[1] <= self.band[0]:
            raise ValueError(f"band {list(self.band)} is empty")
        if self.sfreq <= 2 * self.band[1]:
            raise ValueError(f"sfreq {self.sfreq:g} Hz is not above twice the band's upper edge of {self.band[1]:g} Hz")
        _all_different(self.channels or [], "channels")
        _all_different(self.labels or [], "labels")
        in_space = self.extractor == COMMON_SPACE
        if self.share in SHARES_EXTRACTOR and self.channels is None and not in_space:
            raise ValueError(f"share = {self.share!r} needs channels = [...] that every site has")
        if self.share in SHARES_HEAD and self.labels is None:
            raise ValueError(f"share = {self.share!r} needs labels = [...], the tasks of all sites")
        if in_space:
            if self.heads != "label":
                raise ValueError('the common space needs heads = "label": they anchor what lies between')
            electrode_names(self.electrodes)
        self._check_one_message()
        if UNBUILT.get():
            return self
        try:
            self.architecture.build({"probe": Branch(1, 2)})
        except ValueError as error:
            raise ValueError(f"window {list(self.window)}, extractor {self.extractor!r}: {error}") from error
        return self

    def _check_one_message(self) -> None:
        one = self.strategy == ONE_MESSAGE
        if not one and self.body in (SUMS, MEANS):
            raise ValueError(f'body = {self.body!r} is sums, which strategy = "{ONE_MESSAGE}" adds')
        if self.noise_multiplier and self.body != MEANS:
            raise ValueError(
                f'noise_multiplier hides a person in means: it needs strategy = "{ONE_MESSAGE}", body = "means"'
            )
        if not one:
            return
        hides = self.noise_multiplier > 0
        for fault, wanted in (
            (self.extractor != COMMON_SPACE, f'extractor = "{COMMON_SPACE}"'),
            (self.body not in (SUMS, MEANS), f'body = "{SUMS}" or "{MEANS}"'),
            (self.share not in ("middle", "none"), 'share = "middle"'),
            (self.labels is None, "labels = [...], the tasks of all sites: which of them a site has stays hidden"),
            (self.weighting != "equal", 'weighting = "equal": sums are added, not weighed'),
            (hides and not self.secure_aggregation, "secure_aggregation with noise: each site adds a share of it"),
            (
                hides and self.bad_channels == "drop",
                'bad_channels = "keep" or "interpolate": which are left would tell',
            ),
            (
                hides and (self.min_sites or 0) < FEWEST,
                f"min_sites = {FEWEST} or more with noise: so many add it",
            ),
        ):
            if fault:
                raise ValueError(f"strategy = {ONE_MESSAGE!r} needs {wanted}")

    @property
    def may_be_masked(self) -> bool:
        """Whether the server can do with the sum of the sites' layers."""
        return self.strategy not in ROBUST and self.share != "none"

    def fewest_replies(self, left_out: int = 0) -> int:
        """Return how many replies the strategy needs in a round to bear `n_byzantine` of them; 0 where it bears none.

        Replies that were left out for what they hold are no longer among those to bear.

        Krum: Blanchard et al. 2017, NeurIPS. Trimmed mean: Yin et al. 2018, ICML.
        """
        n_byzantine = max(0, self.n_byzantine - left_out)
        return {"krum": 2 * n_byzantine + 3, "fedtrimmedavg": 2 * n_byzantine + 1}.get(self.strategy, 0)

    @property
    def preprocessing(self) -> Preprocessing:
        """The part that decides how recordings become trials."""
        reference = self.reference if isinstance(self.reference, str) else tuple(self.reference)
        return Preprocessing(self.sfreq, self.window, self.band, reference, self.bad_channels, self.reject, self.filter)

    @property
    def alignment_model(self) -> Alignment:
        """The part that brings a subject's trials to a common reference."""
        return Alignment(
            self.alignment, self.sfreq, self.shrinkage, self.band, self.space, self.body in ("tangent", SUMS, MEANS)
        )

    @property
    def space(self) -> tuple[str, ...]:
        """The electrodes of the common space; none where the extractor takes the headset's own channels."""
        return electrode_names(self.electrodes) if self.extractor == COMMON_SPACE else ()

    @property
    def architecture(self) -> "Architecture":
        """The part that decides the network."""
        from mfscsn.network import Architecture

        return Architecture(
            n_times=self.preprocessing.n_times,
            sfreq=self.sfreq,
            extractor=self.extractor,
            band=self.band,
            width=self.width,
            share=self.share,
            electrodes=self.space,
            body=self.body,
        )


class Training(Table):
    """How every site trains; as `mfscsn.settings.Settings`, and the seed of all that is random."""

    rounds: int = Field(200, ge=1)
    local_epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: Positive = 8e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = Field(0.01, ge=0)
    mmd: float = Field(0.0, ge=0)
    fine_tune: int = Field(0, ge=0)
    seed: int = Field(0, ge=0, lt=2**32)


class Part(Table):
    """Some of a subject's trials. `runs` and `sessions` say of which recordings; when left out, of all.

    ``first = N`` takes the first N of them, ``after = N`` all but the first N.

    As calibration, ``{ runs = [...], first = 0 }`` shows the signals of those runs, and no label: the subject's mean is
    fitted on them, and nothing of them trains. ``{ first = 0 }`` shows nothing at all: the mean begins as that of the
    data set's other subjects, and an adaptive one follows the subject's trials from there.
    """

    runs: list[str] | None = None
    sessions: list[str] | None = None
    after: int | None = Field(None, ge=1)
    first: int | None = Field(None, ge=0)

    @property
    def shows_nothing(self) -> bool:
        """Whether no trial of the subject is seen before its test."""
        return self.first == 0 and self.runs is None and self.sessions is None

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return _numbers_as_text(value, ("runs", "sessions"))

    @model_validator(mode="after")
    def _check(self) -> "Part":
        if (self.runs is not None and self.sessions is not None) or not self.model_dump(exclude_none=True):
            raise ValueError("expected one of {runs = [...]}, {sessions = [...]}, {first = N}, {after = N}")
        return self


class Dataset(Table):
    """One data set of a site.

    Parameters
    ----------
    source : str
        ``bids:FOLDER``, ``files:FOLDER``, ``arrays:FILE.npz`` or ``beetl:FOLDER`` (relative to the TOML's data_root),
        ``moabb:CLASS``, ``simulated:NAME``.
    name : str, optional
        Made from the source when left out.
    options : table, optional
        Keyword arguments of the MOABB class, values of the simulated centre, of BEETL's data sets (`data.beetl`),
        ``{ task = NAME }`` for a BIDS folder whose tasks have the same trial types, ``{ pattern = TEXT }`` for files
        (`data.folder.FilesSource`).
    tasks : list or table
        Annotations to use; a table maps them to the labels of this federation.
    subjects : list, optional
        All of the source when left out.
    without : list
        Subjects that are not used: who took part once and does no longer, `mfscsn site forget --person`.
    channels : list, optional
        All EEG channels when left out.
    targets : list
        Subjects to be scored: their `calibration` trials train, their `test` trials are never trained on.
    calibration, test : table
        `test` may be "rest": all trials that are in no other part.
    held_out : table, optional
        Trials of the targets that neither train nor are the test. They are scored in every round, which shows when
        training begins to know its own trials by heart, and a temperature is fitted on them: `mfscsn.temperature`.
    """

    source: str
    name: Name = ""
    options: dict[str, Any] = Field({})
    tasks: list[str] | dict[str, str]
    subjects: list[SubjectName] | None = Field(None, min_length=1)
    without: list[SubjectName] = Field([])
    channels: list[str] | None = Field(None, min_length=1)
    targets: list[SubjectName] = Field([])
    calibration: Part | None = None
    test: Part | Literal["rest"] = "rest"
    held_out: Part | None = None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = _numbers_as_text(value, ("subjects", "without", "targets"))
        if not value.get("name") and isinstance(value.get("source"), str):
            stem = value["source"].partition(":")[2].rstrip("/").rpartition("/")[2]
            value["name"] = as_name(stem)
        return value

    @model_validator(mode="after")
    def _check(self) -> "Dataset":
        if self.targets and self.calibration is None:
            raise ValueError("targets need calibration = {runs = [...]}, {sessions = [...]} or {first = N}")
        for names in (self.subjects or [], self.targets):
            _all_different(names, f"data set {self.name!r}: subjects")
        _all_different(self.channels or [], f"data set {self.name!r}: channels")
        for target in self.targets:
            if target in self.without:
                raise ValueError(f"target {target!r} stands in without, too; leave it out of one of the two")
            if self.subjects is not None and target not in self.subjects:
                raise ValueError(f"target {target!r} is not among the subjects{nearest(target, self.subjects)}")
        if self.held_out is not None and not self.targets:
            raise ValueError("held_out holds trials of targets; name some with targets = [...]")
        if isinstance(self.test, Part) and self.test.first is not None:
            raise ValueError('test takes {runs = [...]}, {sessions = [...]}, {after = N} or "rest"')
        if not self.tasks:
            raise ValueError("tasks is empty: name the annotations to use")
        return self

    @property
    def parts(self) -> tuple[object, ...]:
        """How a target's trials are parted."""
        return self.calibration, self.held_out, self.test

    def check_targets_are_kept_from(self, other: "Dataset") -> None:
        """Raise ValueError when a target's test trials would train through another use of the same source."""
        if (other.source, other.options) != (self.source, self.options):
            return
        for target in self.targets:
            used = other.subjects is None or target in other.subjects
            alike = target in other.targets and other.parts == self.parts
            if used and not alike:
                raise ValueError(
                    f"target {target!r} of {self.source!r} also stands in another data set, where its test trials"
                    " would train; give that one subjects = [...] without it, or the same targets and calibration"
                )

    def used(self, known: Sequence[str]) -> list[str]:
        """List the subjects that are used, of those that there are."""
        return [name for name in self.subjects or known if name not in self.without]

    @property
    def task_map(self) -> dict[str, str]:
        """Annotation -> label."""
        return dict(self.tasks) if isinstance(self.tasks, dict) else {task: task for task in self.tasks}

    def labels(self, contract: Contract) -> tuple[str, ...]:
        """Return the label names in the order of the head's outputs."""
        return tuple(contract.labels or dict.fromkeys(self.task_map.values()))

    def recipe(self, contract: Contract) -> Recipe:
        """Describe what this data set's store is made of."""
        channels = contract.channels or self.channels
        return Recipe(
            source=self.source,
            options=self.options,
            tasks=self.task_map,
            channels=tuple(channels) if channels else None,
            preprocessing=contract.preprocessing,
        )


class Privacy(Table):
    """A site's differential privacy: `federation.privacy.private_training`, counted in `federation.privacy.ledger`.

    Parameters
    ----------
    epsilon : float
        What all rounds of all runs together may tell about one trial; before it would be passed, the site stops. With
        "one-message" it is of a person with all its trials, the noise is the contract's, and `epsilon`, `delta` and
        `share` alone stand here: `federation.privacy.persons`.
    delta : float
        With which probability more may be told; below one over the number of trials.
    n_trials : int, optional
        About how many training trials the site's largest data set has: rounded, and public. Steps, their rate and their
        mean follow from it, and never from the true number, which would tell whether one trial was there.
    share : float
        The part of `epsilon` that one run may take at most: a first run of one round may not spend it all. It is not
        the contract's `share`.
    noise_multiplier : float, optional
        Deviation of the noise, over `max_grad_norm`; when left out, the least with which the run's rounds fit.
    max_grad_norm : float
        Greatest length of a trial's gradient.
    """

    epsilon: Positive
    n_trials: int | None = Field(None, ge=1)
    share: float = Field(0.25, gt=0, le=1)
    delta: float = Field(1e-5, gt=0, lt=1)
    noise_multiplier: Positive | None = None
    max_grad_norm: Positive = 1.0


Metric = Literal["loss", "accuracy", "held_out", "seconds"]


def _metrics(datasets: Sequence[Dataset]) -> list[Metric]:
    held_out: list[Metric] = ["held_out"] if any(d.held_out for d in datasets) else []
    return ["loss", "accuracy", *held_out, "seconds"]


class Site(Table):
    """One data centre.

    Parameters
    ----------
    name : str
    dataset : list of Dataset
        Empty where the recordings are on another machine: at the server of a deployment.
    branch_by : {"dataset", "subject"}
        What gets separate layers of its own.
    metrics : list
        Training metrics that may leave the site in every round. "held_out" is the balanced accuracy of its data sets'
        `held_out` trials, with the layers as the round began.
    scores : list
        Scores on test trials that may leave the site after the last round: means over its target subjects.
    contract : table, optional
        Values of the contract that this site insists on; the federation is refused when it has others.
    privacy : table, optional
        Differential privacy of this site's trials.
    secret_seed : int, optional
        Takes the place of the run's seed in all that is the site's own: the first weights of its private layers,
        batches, dropout. Who knows the run's seed, as the server does, else knows how they began.
    """

    name: Name
    dataset: list[Dataset] = Field([])
    branch_by: Literal["dataset", "subject"] = "dataset"
    metrics: list[Metric] = Field(default_factory=lambda data: _metrics(data.get("dataset", [])))
    scores: list[Literal["balanced_accuracy"]] = Field([])
    contract: dict[str, Any] = Field({})
    privacy: Privacy | None = None
    secret_seed: int | None = Field(None, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check(self) -> "Site":
        _all_different([d.name for d in self.dataset], f"site {self.name!r}: data sets")
        return self


class Agreed(Table):
    """What a contract and its training must say together."""

    contract: Contract = Field(default_factory=Contract)
    training: Training = Training()

    @model_validator(mode="after")
    def _check_rounds(self) -> "Agreed":
        if self.contract.strategy == ONE_MESSAGE and self.training.rounds != 1:
            if "rounds" in self.training.model_fields_set:
                raise ValueError(f"strategy = {ONE_MESSAGE!r}: training.rounds is 1, not {self.training.rounds}")
            object.__setattr__(self, "training", self.training.model_copy(update={"rounds": 1}))
        return self


class Federation(Agreed):
    """A federation, as FED.toml writes it: whole on one machine, or as much as one machine of a deployment knows.

    Parameters
    ----------
    name : str
        Of the federation; made from the file's name when left out.
    data_root : str
        Where folders and files of sources are looked for; relative to the TOML.
    contract, training, site
        Tables of the TOML.
    """

    name: Name
    data_root: str = "."
    site: list[Site] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "Federation":
        _all_different([s.name for s in self.site], "sites")
        agreed = self.contract.model_dump(mode="json")
        for site in self.site:
            for key, value in site.contract.items():
                if key not in agreed:
                    raise ValueError(f"site {site.name!r}: contract.{key}: unknown key{nearest(key, list(agreed))}")
                if value != agreed[key]:
                    raise ValueError(
                        f"site {site.name!r} disagrees on the contract: {key} = {value!r} there,"
                        f" {agreed[key]!r} in the federation"
                    )
            if site.privacy is not None:
                self._check_privacy(site)
            elif self.contract.noise_multiplier and site.dataset:
                raise ValueError(
                    f"site {site.name!r}: a message with noise costs privacy, and nobody counts: add"
                    " privacy = { epsilon = ... }"
                )
            for dataset in site.dataset:
                unknown = sorted(set(dataset.task_map.values()) - set(dataset.labels(self.contract)))
                if unknown:
                    raise ValueError(f"site {site.name!r}: tasks {unknown} are not among contract.labels")
                for other in (d for s in self.site for d in s.dataset):
                    dataset.check_targets_are_kept_from(other)
                if len(dataset.labels(self.contract)) < 2:
                    raise ValueError(
                        f"site {site.name!r}: data set {dataset.name!r} has the one class"
                        f" {list(dataset.labels(self.contract))}; at least two are needed to train"
                    )
        return self

    def _check_privacy(self, site: Site) -> None:
        """Raise ValueError when something would tell of the trials that no noise covers."""
        c, privacy = self.contract, site.privacy
        assert privacy is not None
        if c.strategy == ONE_MESSAGE:
            self._check_privacy_of_persons(site, privacy, c)
            return
        for fault, wanted in (
            (privacy.n_trials is None, "n_trials: about how many trials train, which the number of steps follows from"),
            (c.extractor != "shallow-group", 'contract.extractor = "shallow-group": batch norm mixes trials'),
            (c.alignment not in ("none", "standard"), 'contract.alignment = "none" or "standard": others are fitted'),
            (c.share == "none", "something to be shared"),
            (c.weighting != "equal", 'contract.weighting = "equal": the number of trials tells'),
            (c.strategy == "fedprox", "another strategy than fedprox"),
            (self.training.mmd > 0, "training.mmd = 0: it compares trials with one another"),
            (bool(site.metrics), "metrics = []: they are of the trials themselves"),
            (bool(site.scores), "scores = []: they are of layers without noise"),
            (site.branch_by != "dataset", 'branch_by = "dataset": a subject of one trial would be a layer'),
        ):
            if fault:
                raise ValueError(f"site {site.name!r}: privacy needs {wanted}")

    @staticmethod
    def _check_privacy_of_persons(site: Site, privacy: Privacy, contract: Contract) -> None:
        for fault, wanted in (
            (not contract.noise_multiplier, 'contract.body = "means" with noise_multiplier above 0'),
            (site.branch_by != "dataset", 'branch_by = "dataset": a person of one label would be a branch'),
            (privacy.n_trials is not None, "no n_trials: the unit is a person, however many trials it has"),
            (privacy.noise_multiplier is not None, "no noise_multiplier of its own: all sites add to the contract's"),
            (bool(site.metrics), "metrics = []: how long a message takes tells how many persons there are"),
            (bool(site.scores), "scores = []: they are of a model without noise"),
            (any(d.channels is None for d in site.dataset), "channels = [...] in each data set: found channels tell"),
        ):
            if fault:
                raise ValueError(f"site {site.name!r}: privacy of a person needs {wanted}")

    @property
    def min_sites(self) -> int:
        """Sites that must answer a round."""
        return self.contract.min_sites or min(2, len(self.site))

    @property
    def settings(self) -> Settings:
        """The part that decides local training."""
        values = self.training.model_dump(exclude={"seed"})
        mu = self.contract.proximal_mu if self.contract.strategy == "fedprox" else 0.0
        return Settings(**values, proximal_mu=mu, person_norm=self.contract.person_norm)

    def digest(self) -> str:
        """Digest what all sites agree on, so that a site and the server can see that they hold the same.

        The number of rounds is the server's to choose.
        """
        agreed = [self.contract.model_dump(mode="json"), self.training.model_dump(mode="json", exclude={"rounds"})]
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()

    def to_toml(self) -> str:
        """Write the federation as TOML."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load_federation(path: Path, data_root: Path | None = None) -> Federation:
    """Read the FED.toml of a whole federation; the folders of its sources come out as absolute paths.

    Parameters
    ----------
    path : Path
    data_root : Path, optional
        In place of the file's own.

    Raises
    ------
    InputError
        One line that names the file, the key, the value, and what was expected.
    """
    federation = read_federation(path, data_root)
    for site in federation.site:
        if not site.dataset:
            raise InputError(f"{path}: site {site.name!r} has no data set; add [[site.dataset]]")
    check_min_sites(federation, str(path))
    _check_labels(federation, str(path))
    return federation


def _check_labels(federation: Federation, where: str) -> None:
    """Refuse labels of two sites that differ in capitals or signs alone: sharing would take them for two tasks."""
    known: dict[str, tuple[str, str]] = {}
    for site in federation.site:
        for label in [label for dataset in site.dataset for label in dataset.task_map.values()]:
            plain = re.sub(r"[\s_-]", "", label.casefold())
            other, of = known.setdefault(plain, (label, site.name))
            if other != label:
                raise InputError(
                    f"{where}: site {of!r} says {other!r}, site {site.name!r} says {label!r}: one task? Then name them"
                    f' alike, tasks = {{ {label} = "{other}" }}; if they are two, give one another name'
                )


def read_federation(path: Path, data_root: Path | None = None) -> Federation:
    """Read a FED.toml that may be as much of a federation as one machine knows; otherwise as `load_federation`."""
    document = read_toml(path)
    document.setdefault("name", as_name(path.stem))
    federation = parse_federation(document, str(path))
    root = (data_root or path.parent / federation.data_root).resolve()
    return with_root(federation, root)


def check_min_sites(federation: Federation, where: str) -> None:
    """Raise InputError when a round needs more sites than there are."""
    if federation.contract.secure_aggregation and len(federation.site) < FEWEST:
        raise InputError(
            f"{where}: secure_aggregation needs at least {FEWEST} sites, there are {len(federation.site)}: of two, each"
            " knows the other's update, and of three, two that tell know the third's"
        )
    contract = federation.contract
    if len(federation.site) < contract.fewest_replies():
        raise InputError(
            f"{where}: strategy {contract.strategy!r} bears n_byzantine = {contract.n_byzantine} among at least"
            f" {contract.fewest_replies()} sites, there are {len(federation.site)}"
        )
    if federation.min_sites > len(federation.site):
        raise InputError(
            f"{where}: contract.min_sites is {federation.min_sites}, but there are {len(federation.site)} sites"
        )


def parse_federation(document: Mapping[str, Any], where: str) -> Federation:
    """Check a federation's document word by word; raise InputError that begins with `where`."""
    return parse_table(Federation, document, where)


def with_root(federation: Federation, root: Path) -> Federation:
    """Make the sources' folders absolute."""

    def absolute(source: str) -> str:
        kind, _, name = source.partition(":")
        return f"{kind}:{(root / name).resolve()}" if kind in ON_DISK else source

    sites = [
        site.model_copy(update={"dataset": [d.model_copy(update={"source": absolute(d.source)}) for d in site.dataset]})
        for site in federation.site
    ]
    return federation.model_copy(update={"site": sites, "data_root": str(root)})
