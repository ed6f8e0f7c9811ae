"""The benchmark's networks that are trained together: MF-SCSN, its variants, its rivals, and what privacy forbids.

All go through `federation.plain_loop`: the sites' own training code, and the mean of the layers that a method shares.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from data.errors import InputError
from data.trials import shuffled_within
from federation.contract import ONE_MESSAGE, Federation, Privacy
from federation.privacy.ledger import least_noise_multiplier
from federation.site_network import server_network
from federation.site_scores import fine_tuned
from federation.site_trials import SiteTrials
from mfscsn.branch import BranchTrials
from mfscsn.choices import COMMON_SPACE, MEANS, SHARES_EXTRACTOR, SHARES_HEAD, SUMS
from mfscsn.experts import Kind
from mfscsn.network import Anchored
from mfscsn.split import SplitModule
from mfscsn.training import predict

# Names of a centralised training. Seeds are derived from them: kept results are of these
CENTRE, JOINT = "one-place", "--in-one-place--"  # the one site; between the names of a site and of its data set


@dataclass(frozen=True)
class Method:
    """How a method differs from the federation's file.

    Parameters
    ----------
    contract, training : mapping
        Values in place of the file's.
    proximal_mu, sharpness, private_first
        As in `mfscsn.settings.Settings`.
    batch_norm_of_batch : bool
        Normalise by the batch at hand, in prediction too (FedBS): prediction then sees test trials together.
    common_channels, merged_labels : bool
        All sites cut down to the channels that they share, and given one list of labels, the tasks of all of them:
        what a network common to all of them needs.
    centralised : bool
        All sites' trials in one place, which a federation exists to avoid.
    null : bool
        A control: the other sites' labels are shuffled within each run, so that nothing can be learned from them.
    frozen : bool
        A control: common layers stay at their random start, and each site trains its own ones around them.
    no_recording : bool
        Nothing of a target is seen before its test: its mean begins as that of its site's others.
    epsilon : float, optional
        Of a whole person, in one message of means, at `DELTA`.
    epsilon_of_trial : float, optional
        Of one trial, in all rounds, at `DELTA`.
    persons : int, optional
        About so many people train besides the targets, evenly from all sites.
    """

    contract: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    proximal_mu: float = 0.0
    sharpness: float = 0.0
    private_first: int = 0
    batch_norm_of_batch: bool = False
    common_channels: bool = False
    merged_labels: bool = False
    centralised: bool = False
    null: bool = False
    frozen: bool = False
    no_recording: bool = False
    epsilon: float | None = None
    epsilon_of_trial: float | None = None
    persons: int | None = None


SHALLOW = {"extractor": "shallow", "alignment": "euclidean", "heads": "site"}
SHALLOW_TRAINING = {"rounds": 40, "batch_size": 32, "lr": 1e-3, "schedule": "constant", "fine_tune": 0}


def _rival(share: str, **other: Any) -> Method:
    return Method(
        {**SHALLOW, "share": share},
        SHALLOW_TRAINING,
        common_channels=share in SHARES_EXTRACTOR,
        merged_labels=share != "middle",
        **other,
    )


def _rival_in_space(share: str, **other: Any) -> Method:
    """Return a rival with the body, the rounds and the settings of `mf-scsn` in the common space; heads are learned."""
    there = {"extractor": COMMON_SPACE, "heads": "label", "share": share}
    return Method(there, merged_labels=share in SHARES_HEAD, **other)


# The paper's form, an extractor of each headset's own; it was the default before the common space
RIEMANN = {"extractor": "riemann", "heads": "site"}
RIEMANN_TRAINING = {"rounds": 20, "batch_size": 64, "lr": 1e-3, "schedule": "constant", "fine_tune": 30}

# In one process, so that nothing need be masked
ONE_MESSAGE_HERE = {
    "strategy": ONE_MESSAGE, "extractor": COMMON_SPACE, "alignment": "adaptive", "heads": "label", "share": "middle",
    "body": SUMS, "electrodes": "motor11", "weighting": "equal", "secure_aggregation": False,
}  # fmt: skip
DELTA = 1e-5

PRIVATE_FORM = {"extractor": "shallow-group", "alignment": "standard", "heads": "site", "weighting": "equal"}
PRIVATE_FORM_TRAINING = {"rounds": 20, "batch_size": 32, "lr": 1e-3, "schedule": "constant", "fine_tune": 0}

METHODS: dict[str, Method] = {
    "mf-scsn": Method(),
    "mf-scsn-unshared": Method({"share": "none"}),
    # A site by itself knows its own trials by heart before the others' rounds are over
    **{f"mf-scsn-unshared-{rounds}": Method({"share": "none"}, {"rounds": rounds}) for rounds in (30, 60, 100)},
    "mf-scsn-null": Method(null=True),
    "mf-scsn-no-recording": Method(no_recording=True),
    "mf-scsn-frozen": Method(frozen=True),
    "fedavg": _rival("all"),
    "fedprox": _rival("all", proximal_mu=0.01),
    "fedbn": _rival("all-but-norm"),
    "fedper": _rival("all-but-head"),
    "fedrep": _rival("all-but-head", private_first=1),
    "fleeg-like": _rival("all-but-extractor"),
    "fedbs": _rival("all-but-norm", sharpness=0.05, batch_norm_of_batch=True),
    "fedavg-common-space": _rival_in_space("all"),  # FLEEG-like too: there is no extractor to learn
    "fedprox-common-space": _rival_in_space("all", proximal_mu=0.01),
    "fedbn-common-space": _rival_in_space("all-but-norm"),
    "fedper-common-space": _rival_in_space("all-but-head"),
    "fedrep-common-space": _rival_in_space("all-but-head", private_first=1),
    "fedbs-common-space": _rival_in_space("all-but-norm", sharpness=0.05, batch_norm_of_batch=True),
    "mf-scsn-riemann": Method(RIEMANN, RIEMANN_TRAINING),
    "mf-scsn-riemann-unshared": Method({**RIEMANN, "share": "none"}, RIEMANN_TRAINING),
    "centralised": Method(centralised=True),
    # The rounds that bear noise: the paper's form, batch norm left out
    "rounds-private-form": Method(PRIVATE_FORM, PRIVATE_FORM_TRAINING),
    "rounds-epsilon-8-of-a-trial": Method(PRIVATE_FORM, PRIVATE_FORM_TRAINING, epsilon_of_trial=8),
    "one-message": Method(ONE_MESSAGE_HERE),
    "one-message-null": Method(ONE_MESSAGE_HERE, null=True),
    "one-message-means": Method({**ONE_MESSAGE_HERE, "body": MEANS}),
    **{
        f"one-message-epsilon-{epsilon}": Method({**ONE_MESSAGE_HERE, "body": MEANS}, epsilon=epsilon)
        for epsilon in (16, 8, 4, 2, 1)
    },
    **{
        f"one-message-epsilon-8-of-{persons}": Method({**ONE_MESSAGE_HERE, "body": MEANS}, epsilon=8, persons=persons)
        for persons in (16, 32)
    },
    "one-message-no-recording": Method(ONE_MESSAGE_HERE, no_recording=True),
}


# Averages of methods' logits at one scale (`mfscsn.experts`), with their weights; first the part that varies by seed
AVERAGES = {
    **{
        f"site-averaged-{rounds}": {f"mf-scsn-unshared-{rounds}": 0.5, "site-weighted-adaptive": 0.5}
        for rounds in (30, 60, 100)
    },
    "site-averaged": {"mf-scsn-unshared": 0.5, "site-weighted-adaptive": 0.5},
    "mf-scsn-averaged": {"mf-scsn": 0.8, "site-weighted-adaptive": 0.2},
    "mf-scsn-experts": {"mf-scsn": 0.7, "site-weighted-adaptive": 0.2, "one-message": 0.1},
    "one-message-averaged": {"one-message": 0.5, "site-weighted-adaptive": 0.5},
    "one-message-and-site": {"mf-scsn-unshared": 0.25, "one-message": 0.5, "site-weighted-adaptive": 0.25},
    "one-message-null-averaged": {"one-message-null": 0.5, "site-weighted-adaptive": 0.5},
    "one-message-epsilon-8-averaged": {"one-message-epsilon-8": 0.5, "site-weighted-adaptive": 0.5},
    "no-label-averaged": {"mf-scsn-unseen-no-label": 0.5, "one-message-unseen-no-label": 0.5},
    "no-label-averaged-null": {"one-message-unseen-no-label-null": 0.5, "mf-scsn-unseen-no-label-null": 0.5},
    "with-own-averaged": {
        "mf-scsn-unseen-no-label": 0.4,
        "one-message-unseen-no-label": 0.4,
        "own-adaptive": 0.2,
    },
    "with-own-averaged-null": {
        "one-message-unseen-no-label-null": 0.4,
        "mf-scsn-unseen-no-label-null": 0.4,
        "own-adaptive": 0.2,
    },
}


@dataclass(frozen=True)
class Scored:
    """A target subject as a method left it: who, its probabilities, and its cost (CPU seconds, bytes)."""

    site: str
    dataset: str
    subject: str
    probabilities: Any
    labels: Any
    outputs: Any
    seconds: float
    n_bytes: int


def common_channels(federation: Federation, store: Path) -> list[str]:
    """List the channels that all prepared data sets have, in the first one's order; InputError when there is none."""
    of_each = [
        channels for s in federation.site for channels in SiteTrials(s, federation.contract, store).channels().values()
    ]
    common = [channel for channel in of_each[0] if all(channel in channels for channels in of_each)]
    if not common:
        raise InputError("no channel is in all data sets; leave out the methods that share the extractor")
    return common


def configured(federation: Federation, method: Method, seed: int, store: Path) -> Federation:
    """Return the federation, which is prepared, as a method wants it."""
    changes = dict(method.contract)
    if method.common_channels:
        changes["channels"] = common_channels(federation, store)
    if method.merged_labels or changes.get("strategy") == ONE_MESSAGE:
        changes["labels"] = list(
            dict.fromkeys(
                label for site in federation.site for dataset in site.dataset for label in dataset.task_map.values()
            )
        )
    document = federation.model_dump(mode="json", exclude_none=True)
    document["contract"] |= changes
    if "extractor" in changes and "alignment" not in changes:
        del document["contract"]["alignment"]
    document["training"] |= {**method.training, "seed": seed}
    if changes.get("strategy") == ONE_MESSAGE:
        document["training"]["rounds"] = 1
    if method.no_recording:
        for site in document["site"]:
            for dataset in site["dataset"]:
                if dataset["targets"]:
                    dataset["calibration"] = {"first": 0}
    if method.centralised:
        datasets = [
            {**dataset, "name": f"{site['name']}{JOINT}{dataset['name']}"}
            for site in document["site"]
            for dataset in site["dataset"]
        ]
        document["site"] = [{"name": CENTRE, "dataset": datasets}]
    found = Federation.model_validate_json(json.dumps(document))
    if method.persons is not None:
        found = _of_persons(found, method.persons, store)
    if method.epsilon_of_trial is not None:
        found = _with_noise_of_trials(found, method.epsilon_of_trial, store)
    if method.epsilon is not None:  # here nobody counts, as a site of a federation must
        noise = {
            "noise_multiplier": least_noise_multiplier(method.epsilon, DELTA, 1.0, 1),
            "min_sites": len(found.site),
        }
        found = found.model_copy(update={"contract": found.contract.model_copy(update=noise)})
    return found


def _with_noise_of_trials(federation: Federation, epsilon: float, store: Path) -> Federation:
    """Give each site privacy with which all rounds together tell so much of a trial."""
    sites = []
    for site in federation.site:
        n_trials = 10 * round(SiteTrials(site, federation.contract, store).n_training() / 10)
        privacy = Privacy(epsilon=epsilon, n_trials=n_trials, share=1.0, delta=DELTA)
        sites.append(site.model_copy(update={"privacy": privacy}))
    return federation.model_copy(update={"site": sites})


def _of_persons(federation: Federation, n_persons: int, store: Path) -> Federation:
    """Keep about so many of those who are no targets, evenly from all sites."""
    others = {
        (site.name, dataset.name, subject)
        for site in federation.site
        for dataset in site.dataset
        for subject in SiteTrials(site, federation.contract, store).subjects(dataset.name)
        if subject not in dataset.targets
    }
    ordered = sorted(others)
    kept = {ordered[round(k)] for k in np.linspace(0, len(ordered) - 1, min(n_persons, len(ordered)))}
    sites = []
    for site in federation.site:
        datasets = []
        for dataset in site.dataset:
            there = [subject for name, of, subject in sorted(kept) if (name, of) == (site.name, dataset.name)]
            datasets.append(dataset.model_copy(update={"subjects": [*dataset.targets, *there]}))
        sites.append(site.model_copy(update={"dataset": datasets}))
    return federation.model_copy(update={"site": sites})


def kind_of(method: str) -> Kind:
    """Return which kind of expert a method is."""
    if method.startswith(("one-message", "common-linear")):
        return "common-linear"
    if method.startswith("own-"):
        return "own-linear"
    return "network" if method.startswith("mf-scsn") or method in METHODS else "linear"


def run_method(federation: Federation, method: Method, seed: int, store: Path) -> list[Scored]:
    """Train a method on prepared trials and predict all target subjects' test trials."""
    wanted = configured(federation, method, seed, store)
    if not method.null:
        rows = _trained_and_predicted(wanted, method, store, None)
    else:
        rows = [row for site in wanted.site for row in run_null(wanted, method, store, site.name)]
    return [in_own_labels(row, federation, wanted) for row in rows]


def in_own_labels(row: Scored, federation: Federation, wanted: Federation) -> Scored:
    """Return a row in the labels of its data set, where a method was given the labels of all of them in one list."""
    dataset = next(
        dataset
        for site in federation.site
        for dataset in site.dataset
        if (site.name, dataset.name) == (row.site, row.dataset)
    )
    own, merged = dataset.labels(federation.contract), dataset.labels(wanted.contract)
    if own == merged:
        return row
    places = np.array([merged.index(name) for name in own])
    of_merged = {int(place): k for k, place in enumerate(places)}
    return replace(
        row,
        probabilities=row.probabilities[:, places],
        labels=np.array([of_merged[int(label)] for label in row.labels]),
        outputs=np.array(sorted(of_merged[int(output)] for output in row.outputs)),
    )


def run_null(federation: Federation, method: Method, store: Path, site: str) -> list[Scored]:
    """Train all sites, the others' labels shuffled within each run, so that they have nothing to teach this one.

    Returns
    -------
    list of Scored
        The site's own target subjects.
    """
    return [row for row in _trained_and_predicted(federation, method, store, site) if row.site == site]


def _trained_and_predicted(federation: Federation, method: Method, store: Path, kept: str | None) -> list[Scored]:
    contract, training = federation.contract, federation.training

    def trials_of(opened: SiteTrials) -> dict[str, BranchTrials]:
        return opened.training() if kept in (None, opened.site.name) else with_shuffled_labels(opened, training.seed)

    from federation.plain_loop import train_together  # Opacus and OpenDP, which a kept table does not need

    networks, seconds = train_together(
        federation,
        store,
        lambda network: _changed(network, method),
        trials_of,
        sharpness=method.sharpness,
        proximal_mu=method.proximal_mu,
        private_first=training.local_epochs if method.frozen else method.private_first,
        local_epochs=0 if method.frozen else training.local_epochs,
    )
    common = sum(array.element_size() * array.numel() for array in server_network(federation).common_state().values())
    rows = []
    for site in federation.site:
        n_bytes = (
            0 if contract.share == "none" or method.centralised or method.frozen else (2 * training.rounds * common)
        )
        opened = SiteTrials(site, contract, store)
        for target in opened.targets():
            began = time.process_time()
            network = fine_tuned(federation, opened, networks[site.name], target)
            probabilities = predict(network, target.signals, target.branch)
            where = target.dataset.split(JOINT) if method.centralised else [site.name, target.dataset]
            spent = seconds[site.name] + time.process_time() - began
            rows.append(
                Scored(
                    site=where[0],
                    dataset=where[1],
                    subject=target.subject,
                    probabilities=probabilities,
                    labels=target.labels,
                    outputs=target.outputs,
                    seconds=spent,
                    n_bytes=n_bytes,
                )
            )
    return rows


def with_shuffled_labels(opened: SiteTrials, seed: int) -> dict[str, BranchTrials]:
    """Load a site's training trials with the labels shuffled within each run: it has nothing to teach."""
    rng, runs = np.random.default_rng(seed), opened.training_runs()
    return {
        branch: replace(trials, labels=shuffled_within(trials.labels, runs[branch], rng))
        for branch, trials in opened.training().items()
    }


def _changed(network: SplitModule, method: Method) -> None:
    """Make a network as a method wants it, in place."""
    if method.frozen and isinstance(network, Anchored):
        network.pull = 0.0  # held heads could not come to terms with a random body
    if method.batch_norm_of_batch:
        _normalise_by_batch(network)


def _normalise_by_batch(network: SplitModule) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
