"""The benchmark's laboratories that a federation has never seen: they decode with what the others have trained."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.adopt import adopting, around, private_alone, train_site
from experiments.benchmark.federated import METHODS, Method, Scored, configured, in_own_labels, with_shuffled_labels
from federation.common_layers import AdoptableLayers
from federation.contract import ONE_MESSAGE, Federation, Site
from federation.site_trials import SiteTrials
from mfscsn.branch import BranchTrials
from mfscsn.exported import SITE
from mfscsn.sums import OWN_WEIGHT, Summed
from mfscsn.training import predict


@dataclass(frozen=True)
class Unseen:
    """What is trained at the other sites, and what the rows of the unseen ones are called.

    Parameters
    ----------
    method : Method
        Of the other sites' training; with `null` their labels are shuffled within each run.
    no_label : str
        The row for which calibration's signals fit a target's mean and norms, and its labels nothing.
    labelled : str, optional
        The row for which its labels train too: heads and norms of the site around layers that stay as they are; of
        sums, the target's own trials, which weigh more.
    """

    method: Method
    no_label: str
    labelled: str | None = None


UNSEEN: dict[str, Unseen] = {
    "mf-scsn-unseen": Unseen(METHODS["mf-scsn"], "mf-scsn-unseen-no-label", "mf-scsn-unseen"),
    "mf-scsn-unseen-null": Unseen(replace(METHODS["mf-scsn"], null=True), "mf-scsn-unseen-no-label-null"),
    "one-message-unseen": Unseen(METHODS["one-message"], "one-message-unseen-no-label", "one-message-unseen"),
    "one-message-unseen-null": Unseen(METHODS["one-message-null"], "one-message-unseen-no-label-null"),
    "one-message-21-unseen": Unseen(
        Method({**METHODS["one-message"].contract, "electrodes": "motor21"}),
        "one-message-21-unseen-no-label",
        "one-message-21-unseen",
    ),
}
# A row -> the job that makes it
ROWS = {row: name for name, unseen in UNSEEN.items() for row in (unseen.no_label, unseen.labelled) if row is not None}


def run_unseen(name: str, federation: Federation, seed: int, store: Path) -> list[tuple[str, Scored]]:
    """Train all sites but those that have targets; then let these decode, as `mfscsn predict` and `adopt` do.

    Parameters
    ----------
    name : str
        A key of `UNSEEN`.
    federation : Federation
        The sites of one laboratory have targets: they are the unseen ones.
    seed : int
    store : Path

    Returns
    -------
    list of (str, Scored)
        By row.
    """
    unseen = UNSEEN[name]
    wanted = configured(federation, unseen.method, seed, store)
    new = [site for site in wanted.site if any(dataset.targets for dataset in site.dataset)]
    others = wanted.model_copy(update={"site": [site for site in wanted.site if site not in new]})
    from federation.plain_loop import train_together  # Opacus and OpenDP, which a kept table does not need

    def trials_of(opened: SiteTrials) -> dict[str, BranchTrials]:
        return with_shuffled_labels(opened, seed) if unseen.method.null else opened.training()

    networks, _ = train_together(others, store, trials_of=trials_of)
    contract = wanted.contract
    common = AdoptableLayers(
        name=federation.name,
        architecture=contract.architecture,
        alignment=contract.alignment_model,
        seed=seed,
        layers=next(iter(networks.values())).common_state(),
        labels=tuple(contract.labels or ()),
        contract=contract,
        training=wanted.training,
    )
    return [
        (row, in_own_labels(scored, federation, wanted))
        for site in new
        for row, scored in _decoded(unseen, common, site, store)
    ]


def _decoded(unseen: Unseen, common: AdoptableLayers, new: Site, store: Path) -> Iterator[tuple[str, Scored]]:
    """Decode the targets of an unseen site."""
    alone = adopting(common, new)
    (site,) = alone.site
    opened = SiteTrials(site, alone.contract, store)
    summed = alone.contract.strategy == ONE_MESSAGE
    n_bytes = sum(layer.element_size() * layer.numel() for layer in common.layers.values())
    began = time.process_time()
    trained = around(alone, opened, common) if unseen.labelled else None
    if trained is not None and not summed:
        for _ in train_site(trained, alone, opened, private_alone(alone.settings)):
            pass
    seconds = time.process_time() - began
    calibration, labels = opened.calibration(), opened.labels()
    for target in opened.targets():
        began = time.process_time()
        own = calibration[target.dataset, target.subject]
        without = common.network_for(labels[target.branch], own.signals)
        scored = Scored(
            site=site.name,
            dataset=target.dataset,
            subject=target.subject,
            probabilities=predict(without, target.signals, SITE),
            labels=target.labels,
            outputs=target.outputs,
            seconds=time.process_time() - began,
            n_bytes=n_bytes,
        )
        yield unseen.no_label, scored
        if unseen.labelled is None or trained is None:
            continue
        if isinstance(without, Summed):
            fitted = without.with_own(own, OWN_WEIGHT)
            probabilities = predict(fitted, target.signals, SITE)
        else:
            probabilities = predict(trained, target.signals, target.branch)
        yield unseen.labelled, replace(scored, probabilities=probabilities, seconds=seconds)
