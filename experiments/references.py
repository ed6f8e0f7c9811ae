"""Reference networks: a site's unshared and, where it is asked for, one on a subject's own calibration.

Both see the same prepared trials and settings, and are shown as many trials as the site's network in the federation:
a subject's few calibration trials are repeated as often as that takes. The other half of what a site does alone is
linear: `experiments.alone`.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from federation.run_folder import RunFolder
from federation.site import write_tensors
from federation.site_network import site_network, site_seed
from federation.workers import n_at_once, start_workers, stop_workers
from mfscsn.split import SplitModule
from mfscsn.training import derive_seed, rounds_of, train_round

OWN = "own"  # the one branch of a network that has a target subject's calibration alone


@dataclass(frozen=True)
class ReferenceJob:
    """One reference to train: a site's own network, or a target subject's."""

    site: int
    dataset: str | None = None
    subject: str | None = None

    def path(self, run: RunFolder) -> Path:
        """Return where its weights are kept."""
        folder = run.path / "sites" / run.federation.site[self.site].name
        if self.subject is None:
            return folder / "local-site.safetensors"
        return folder / "own-calibration" / f"{self.dataset}-{self.subject}.safetensors"


def reference_jobs(run: RunFolder) -> list[ReferenceJob]:
    """List the sites' own networks."""
    return [ReferenceJob(k) for k in range(len(run.federation.site))]


def own_network_jobs(run: RunFolder) -> list[ReferenceJob]:
    """List the networks of each target subject's calibration alone."""
    return [
        ReferenceJob(k, dataset.name, subject)
        for k, site in enumerate(run.federation.site)
        for dataset in site.dataset
        for subject in dataset.targets
    ]


def train_references(run: RunFolder, jobs: Sequence[ReferenceJob], report: Callable[[int, int], None]) -> None:
    """Train those references that are missing, several at once; `report` is told how many of how many are done."""
    threads = int(run.environment["threads"])
    counter = iter(range(1, len(jobs) + 1))

    def done() -> None:
        report(next(counter), len(jobs))

    report(0, len(jobs))
    missing = []
    for job in jobs:
        if job.path(run).exists():
            done()
        else:
            missing.append(job)
    if not missing:
        return
    pool = start_workers(n_at_once(threads, len(missing)), threads)
    try:
        for future in as_completed([pool.submit(_train, run.path, job) for job in missing]):
            future.result()
            done()
    finally:
        stop_workers(pool)  # do not wait for what nobody will use


def _train(path: Path, job: ReferenceJob) -> None:
    run = RunFolder(path)
    site, contract = run.federation.site[job.site], run.federation.contract
    seed = site_seed(run.federation, site)
    network: SplitModule
    words: tuple[int | str, ...] = (seed, site.name)
    settings = replace(run.federation.settings, proximal_mu=0.0)  # nothing is shared: nothing to be pulled back to
    opened, trains = run.trials(site), True
    if job.dataset is None or job.subject is None:
        trials = opened.training()
        network = site_network(run.federation, opened)
    else:
        own = opened.calibration()[job.dataset, job.subject]
        trials, words = {OWN: own}, (seed, site.name, job.dataset, job.subject)
        repeats = math.ceil(opened.n_training() / max(len(own.labels), 1))
        settings = replace(settings, local_epochs=settings.local_epochs * repeats)
        trains = len(own.labels) > 0  # without a label it stays as it began
        branch = opened.branch(job.dataset, job.subject)
        network = contract.architecture.build_alone({OWN: opened.branches()[branch]}, derive_seed(*words))
    state = None
    for number, now in rounds_of(settings) if trains else ():
        _, state = train_round(
            network,
            trials,
            now,
            seed=derive_seed(*words, number),
            optimiser_state=state,
            device=run.device,
        )
    about = {
        "run": run.run_id,
        "round": str(run.federation.training.rounds),
        "trials": opened.digest(),
    }
    write_tensors(job.path(run), network.common_state() | network.private_state(), about)
