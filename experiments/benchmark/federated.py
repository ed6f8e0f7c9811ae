"""The benchmark's networks that are trained together: MF-SCSN, its variants, its rivals, and what privacy forbids.

All go through one loop, `train_together`, which is the federation without Flower's transport: the sites' own training
code, and the average of the layers that a method shares. A simulation through Flower gives the same layers (a test).
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from federation.contract import Federation, Site
from federation.site_network import server_network, site_network, site_seed
from federation.site_trials import calibration_trials, target_trials, training_trials
from mfscsn.network import SHARES_EXTRACTOR, SplitModule
from mfscsn.training import BranchTrials, derive_seed, fine_tune, predict, train_round

ONE_PLACE = "--in-one-place--"  # between the names of a site and of its data set
COMMON_CHANNELS = ["C3", "Cz", "C4"]  # what the headsets of openmi share
MERGED_LABELS = ["left_hand", "right_hand", "hands", "feet", "rest"]


@dataclass(frozen=True)
class Method:
    """How a method differs from the federation's file.

    Parameters
    ----------
    contract, training, site : mapping
        Values in place of the file's; `site` is of every site.
    proximal_mu, sharpness, private_first
        As in `mfscsn.training.Settings`.
    batch_norm_of_batch : bool
        Normalise by the batch at hand, in prediction too (FedBS): prediction then sees test trials together.
    common_channels, merged_labels : bool
        All sites cut down to the channels, and given the list of labels, that a network common to all of them needs.
    one_place : bool
        All sites' trials in one place, which a federation exists to avoid.
    null : bool
        A control: the other sites' labels are shuffled within subject, so that nothing can be learned from them.
    half : bool
        The common layers travel at half precision, both ways.
    ensemble : int
        Networks, from seeds of their own, whose probabilities are averaged.
    """

    contract: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    site: Mapping[str, Any] = field(default_factory=dict)
    proximal_mu: float = 0.0
    sharpness: float = 0.0
    private_first: int = 0
    batch_norm_of_batch: bool = False
    common_channels: bool = False
    merged_labels: bool = False
    one_place: bool = False
    null: bool = False
    half: bool = False
    ensemble: int = 1


SHALLOW = {"extractor": "shallow", "alignment": "euclidean"}
SHALLOW_TRAINING = {"rounds": 40, "batch_size": 32, "fine_tune": 0}


def _rival(share: str, **other: Any) -> Method:
    return Method(
        {**SHALLOW, "share": share},
        SHALLOW_TRAINING,
        common_channels=share in SHARES_EXTRACTOR,
        merged_labels=share != "middle",
        **other,
    )


METHODS: dict[str, Method] = {
    "mf-scsn": Method(),
    "mf-scsn-unshared": Method({"share": "none"}),
    "mf-scsn-null": Method(null=True),
    "mf-scsn-recentred": Method({"alignment": "recentred"}),
    "mf-scsn-half-precision": Method(half=True),
    "mf-scsn-ensemble": Method(ensemble=5),
    "mf-scsn-no-fine-tuning": Method(training={"fine_tune": 0}),
    "mf-scsn-sam": Method(sharpness=0.05),
    "mf-scsn-branch-by-subject": Method(site={"branch_by": "subject"}),
    "mf-scsn-branch-by-subject-mmd": Method(training={"mmd": 1.0}, site={"branch_by": "subject"}),
    "mf-scsn-label-heads": Method({"heads": "label"}),
    "mf-scsn-label-heads-unshared": Method({"heads": "label", "share": "none"}),
    "mf-scsn-label-heads-no-fine-tuning": Method({"heads": "label"}, {"fine_tune": 0}),
    "mf-scsn-shallow": Method(SHALLOW, SHALLOW_TRAINING),
    "mf-scsn-shallow-unshared": Method({**SHALLOW, "share": "none"}, SHALLOW_TRAINING),
    "fedavg": _rival("all"),
    "fedprox": _rival("all", proximal_mu=0.01),
    "fedbn": _rival("all-but-norm"),
    "fedper": _rival("all-but-head"),
    "fedrep": _rival("all-but-head", private_first=1),
    "fleeg-like": _rival("all-but-extractor"),
    "fedbs": _rival("all-but-norm", sharpness=0.05, batch_norm_of_batch=True),
    "fedavg-riemann": Method({"share": "all"}, common_channels=True, merged_labels=True),
    "fedper-riemann": Method({"share": "all-but-head"}, common_channels=True, merged_labels=True),
    "one-place": Method(one_place=True),
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


def configured(federation: Federation, method: Method, seed: int) -> Federation:
    """Give the federation as a method wants it."""
    changes = dict(method.contract)
    if method.common_channels:
        changes["channels"] = COMMON_CHANNELS
    if method.merged_labels:
        changes["labels"] = MERGED_LABELS
    document = federation.model_dump(mode="json", exclude_none=True)
    document["contract"] |= changes
    if "extractor" in changes and "alignment" not in changes:
        del document["contract"]["alignment"]
    document["training"] |= {**method.training, "seed": seed}
    document["site"] = [{**site, **method.site} for site in document["site"]]
    if method.one_place:
        datasets = [
            {**dataset, "name": f"{site['name']}{ONE_PLACE}{dataset['name']}"}
            for site in document["site"]
            for dataset in site["dataset"]
        ]
        document["site"] = [{"name": "one-place", "dataset": datasets}]
    return Federation.model_validate_json(json.dumps(document))


def run_method(federation: Federation, method: Method, seed: int, store: Path) -> list[Scored]:
    """Train a method on prepared trials and predict all target subjects' test trials."""
    if method.ensemble > 1:
        alone = replace(method, ensemble=1)
        members = [run_method(federation, alone, derive_seed(seed, k), store) for k in range(method.ensemble)]
        return [
            replace(
                parts[0],
                probabilities=np.mean([p.probabilities for p in parts], axis=0),
                seconds=sum(p.seconds for p in parts),
                n_bytes=sum(p.n_bytes for p in parts),
            )
            for parts in zip(*members, strict=True)
        ]
    wanted = configured(federation, method, seed)
    if not method.null:
        return _trained_and_predicted(wanted, method, store, None)
    found = []
    for site in wanted.site:  # each site in turn is the one that learns from sites which have nothing to teach
        scored = _trained_and_predicted(wanted, method, store, site.name)
        found += [row for row in scored if row.site == site.name]
    return found


def train_together(
    federation: Federation,
    store: Path,
    change: Callable[[SplitModule], None] = lambda network: None,
    trials_of: Callable[[Site], dict[str, BranchTrials]] | None = None,
    half: bool = False,
    **settings_of_method: Any,
) -> tuple[dict[str, SplitModule], dict[str, float]]:
    """Train all sites round by round in this process; give each site's network and its CPU seconds."""
    contract, training = federation.contract, federation.training
    settings = replace(federation.settings, **settings_of_method)
    load = trials_of or (lambda site: training_trials(site, contract, store))
    trials = {site.name: load(site) for site in federation.site}
    networks: dict[str, SplitModule] = {}
    for site in federation.site:
        networks[site.name] = site_network(federation, site, store)
        change(networks[site.name])
    states: dict[str, dict[str, Tensor] | None] = dict.fromkeys(networks)
    seconds = dict.fromkeys(networks, 0.0)
    weights = {
        name: 1.0 if contract.weighting == "equal" else float(sum(len(t.labels) for t in of_site.values()))
        for name, of_site in trials.items()
    }
    seeds = {site.name: site_seed(federation, site) for site in federation.site}
    for number in range(1, training.rounds + 1):
        for name in sorted(networks):
            began = time.process_time()
            _, states[name] = train_round(
                networks[name],
                trials[name],
                settings,
                seed=derive_seed(seeds[name], name, number),
                optimiser_state=states[name],
            )
            seconds[name] += time.process_time() - began
        layers = [
            (weights[name] / sum(weights.values()), _sent(networks[name].common_state(), half))
            for name in sorted(networks)
        ]
        mean = {
            key: sum((part * state[key] for part, state in layers[1:]), layers[0][0] * layers[0][1][key])
            for key in layers[0][1]
        }
        for network in networks.values():
            network.load_common(_sent(mean, half))
    return networks, seconds


def _sent(layers: dict[str, Tensor], half: bool) -> dict[str, Tensor]:
    """Give layers as they arrive."""
    return {name: values.half().float() for name, values in layers.items()} if half else layers


def _trained_and_predicted(federation: Federation, method: Method, store: Path, kept: str | None) -> list[Scored]:
    contract, training = federation.contract, federation.training

    def trials_of(site: Site) -> dict[str, BranchTrials]:
        trials = training_trials(site, contract, store)
        return trials if kept in (None, site.name) else {k: _shuffled(t, training.seed) for k, t in trials.items()}

    networks, seconds = train_together(
        federation,
        store,
        _normalise_by_batch if method.batch_norm_of_batch else lambda network: None,
        trials_of,
        half=method.half,
        sharpness=method.sharpness,
        proximal_mu=method.proximal_mu,
        private_first=method.private_first,
    )
    common = sum(
        array.numel() * (2 if method.half else 4) for array in server_network(federation).common_state().values()
    )
    found = []
    for site in federation.site:
        n_bytes = 0 if contract.share == "none" or method.one_place else 2 * training.rounds * common
        own = calibration_trials(site, contract, store)
        for target in target_trials(site, contract, store):
            began = time.process_time()
            words = (training.seed, site.name, target.dataset, target.subject, "fine-tune")
            network = fine_tune(
                networks[site.name],
                own[target.dataset, target.subject],
                target.branch,
                federation.settings,
                derive_seed(*words),
            )
            probabilities = predict(network, target.signals, target.branch)
            where = target.dataset.split(ONE_PLACE) if method.one_place else [site.name, target.dataset]
            spent = seconds[site.name] + time.process_time() - began
            found.append(
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
    return found


def _shuffled(trials: BranchTrials, seed: int) -> BranchTrials:
    return replace(trials, labels=np.random.default_rng(seed).permutation(trials.labels))


def _normalise_by_batch(network: SplitModule) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
