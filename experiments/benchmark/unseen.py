"""The benchmark's headset that a federation has never seen: it takes the others' common layers when they are done."""

import time
from dataclasses import replace
from pathlib import Path

from experiments.adopt import adopting, around, private_alone, train_site
from experiments.benchmark.federated import Scored
from federation.common_layers import AdoptableLayers
from federation.contract import Federation
from federation.site_trials import SiteTrials
from mfscsn.exported import SITE
from mfscsn.training import predict

UNSEEN = "mf-scsn-unseen"
NO_LABEL = f"{UNSEEN}-no-label"


def run_unseen(federation: Federation, seed: int, store: Path) -> list[tuple[str, Scored]]:
    """Train all sites but the one that has targets; then let that one decode, as `mfscsn predict` and `adopt` do.

    Parameters
    ----------
    federation : Federation
        One of its sites has targets: the unseen one.
    seed : int
    store : Path

    Returns
    -------
    list of (str, Scored)
        `NO_LABEL`: calibration's signals fit a target's mean and norms, and its labels nothing. `UNSEEN`: the site's
        own head and norms are trained on the calibration of all its targets, around layers that stay as they are.
    """
    training = federation.training.model_copy(update={"seed": seed})
    unseen = next(site for site in federation.site if any(dataset.targets for dataset in site.dataset))
    others = federation.model_copy(
        update={"training": training, "site": [site for site in federation.site if site is not unseen]}
    )
    from federation.plain_loop import train_together  # Opacus and OpenDP, which a kept table does not need

    networks, _ = train_together(others, store)
    contract = federation.contract
    common = AdoptableLayers(
        name=federation.name,
        architecture=contract.architecture,
        alignment=contract.alignment_model,
        seed=seed,
        layers=next(iter(networks.values())).common_state(),
        contract=contract,
        training=training,
    )
    alone = adopting(common, unseen)
    (site,) = alone.site
    opened = SiteTrials(site, alone.contract, store)
    network = around(alone, opened, common)
    began = time.process_time()
    for _ in train_site(network, alone, opened, private_alone(alone.settings)):
        pass
    seconds, n_bytes = time.process_time() - began, sum(4 * layer.numel() for layer in common.layers.values())
    calibration, labels = opened.calibration(), opened.labels()
    rows = []
    for target in opened.targets():
        began = time.process_time()
        signals = calibration[target.dataset, target.subject].signals
        without = common.network_for(labels[target.branch], signals)
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
        trained = predict(network, target.signals, target.branch)
        rows += [(NO_LABEL, scored), (UNSEEN, replace(scored, probabilities=trained, seconds=seconds))]
    return rows
