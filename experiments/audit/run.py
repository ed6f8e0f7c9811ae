"""Audit: play a server that reads what it is sent, and a site that pries, against a finished run's own federation.

Every attack is run first on an update of all layers, as FedAvg sends it, without protection: one that fails there
shows nothing. Then on the common layers alone, on a secure sum, and with differential privacy where the network bears
it; and what that costs.
"""

import csv
import io
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import InputError
from data.files import replaced
from experiments.audit.byzantine import ATTACKS, STRATEGIES, score_beside
from experiments.audit.identity import n_named
from experiments.audit.inversion import TrialForm, gradient_of_trial, invert, likeness, log_band_powers
from experiments.audit.labels import LAST, USUAL, named_pair, rows_by_label
from experiments.audit.membership import auc, infer_membership, parted
from experiments.audit.persons import N_DRAWS, seen_in_sum, sums_of_sites
from experiments.audit.views import NOISE_MULTIPLIERS, VIEWS, Layers, View, joined, summed, trained, update_of_round
from experiments.simulate import train_rounds
from experiments.statistics import share_interval
from federation.contract import ONE_MESSAGE, Contract, Federation, Privacy, Site
from federation.plain_loop import train_together
from federation.run_folder import RunFolder
from federation.site_network import server_network, site_network
from federation.site_scores import mean_score
from federation.tables import parse_table
from federation.workers import start_workers, stop_workers
from mfscsn.branch import BranchTrials
from mfscsn.choices import MEANS
from mfscsn.split import SplitModule
from mfscsn.sums import clipped, person_vectors
from mfscsn.training import derive_seed

N_TRIALS = 6  # that are made anew of each view's gradients
ENOUGH = 1e6  # an epsilon that stops no run
DECLARED = 200  # trials, which a site under privacy says in place of the true number
KRUM_NEEDS = 5  # sites, that one may be Byzantine


@dataclass(frozen=True)
class Finding:
    """One figure of the audit.

    Parameters
    ----------
    part : str
        Of `PARTS`.
    view : str
        What the attacker sees; of a Byzantine site, which average bears it.
    measure : str
    value : float
    n : int
        Trials, updates, or sites that it is over.
    low, high : float, optional
        Its 95 % interval; of inversion, the least and the most.
    chance : float, optional
        What an attack that sees nothing gives.
    seed : int
    """

    part: str
    view: str
    measure: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    seed: int = 0


def check_auditable(run: RunFolder, parts: Sequence[str]) -> None:
    """Raise InputError when a part cannot be played on this run."""
    federation = run.federation
    for site in federation.site:
        if site.privacy is not None:
            raise InputError(f"{run.path}: site {site.name!r} has privacy; audit a run without, noise is added here")
    if any(dataset.subjects is None for site in federation.site for dataset in site.dataset):
        raise InputError(f"{run.path}: does not name its subjects; audit a run that `mfscsn simulate` made")
    one_message = federation.contract.strategy == ONE_MESSAGE
    for part in parts:
        if one_message != (part == "persons"):
            here = "one message: --parts persons" if one_message else "rounds: leave persons out of --parts"
            raise InputError(f"{run.path}: what can be attacked here is of {here}")
    if "price" in parts and (why := why_no_noise(federation)) is not None:
        raise InputError(f"{run.path}: has no price of differential privacy; leave price out of --parts: {why}")
    if "inversion" in parts and not _of_signals(federation.contract):
        raise InputError(f"{run.path}: its network takes covariances, not signals; leave inversion out of --parts")
    if "labels" in parts and LAST not in server_network(federation).common_names():
        raise InputError(
            f"{run.path}: labels are looked for in {LAST} of the common space, which it does not have; leave labels out"
            " of --parts"
        )
    if "identity" in parts and all(sum(len(d.subjects or []) for d in site.dataset) < 2 for site in federation.site):
        raise InputError(f"{run.path}: no site has two subjects to tell apart; leave identity out of --parts")
    if "byzantine" in parts and len(federation.site) < KRUM_NEEDS:
        raise InputError(
            f"{run.path}: {len(federation.site)} sites; of {KRUM_NEEDS} one may be Byzantine; leave it out of --parts"
        )


def playable(run: RunFolder) -> list[str]:
    """List the parts that can be played on a run; raise InputError where none can."""

    def refused(part: str) -> InputError | None:
        try:
            check_auditable(run, [part])
        except InputError as error:
            return error
        return None

    check_auditable(run, [])
    return [part for part in PARTS if refused(part) is None]


def why_no_noise(federation: Federation) -> str | None:
    """Say why a federation does not bear differential privacy; None where it does."""
    try:
        private(federation, NOISE_MULTIPLIERS[0])
    except InputError as error:
        return str(error)
    return None


def private(federation: Federation, noise: float) -> Federation:
    """Return the federation with noise at every site, and a budget that stops none."""
    privacy = Privacy(epsilon=ENOUGH, n_trials=DECLARED, share=1.0, noise_multiplier=noise)
    sites = [site.model_copy(update={"privacy": privacy, "metrics": [], "scores": []}) for site in federation.site]
    document = federation.model_copy(update={"site": sites}).model_dump(mode="json", exclude_none=True)
    return parse_table(Federation, document, "with noise")


def inversion(run: RunFolder, number: int, seed: int, work: Path) -> list[Finding]:
    """Make trials of the site with the fewest channels, where it is easiest, out of their gradients.

    The number is a view's; the one after the last is of the common layers with the extractor known, as it began.
    """
    contract = run.federation.contract
    site, branch, trials = min(_branches(run), key=lambda likenesses: likenesses[2].signals.shape[1])
    known = number == len(VIEWS)
    view = View() if known else VIEWS[number]
    network = site_network(run.federation, run.trials(site)).double().eval()
    attacker = network if view.everything or known else _strange(run, site).double().eval()
    usual = log_band_powers(trials.signals, contract.sfreq).mean(axis=0)
    rng = np.random.default_rng(seed)
    likenesses = []
    for k in rng.choice(len(trials.labels), N_TRIALS, replace=False):
        x, label = _trial(trials, int(k))
        gradients = gradient_of_trial(network, branch, x, label, view)
        if view.secure:
            gradients = summed(gradients, _gradients_of_others(run, site, rng, view))
        n_chans, n_times = x.shape
        form = TrialForm(n_chans, n_times, contract.sfreq, contract.band)
        words = derive_seed(seed, "inversion", int(k))
        made = invert(attacker, branch, gradients, label, form, words)
        likenesses.append(likeness(made, x, usual, contract.sfreq))
    name = f"{view}, extractor known" if known else str(view)
    return [
        Finding("inversion", name, measure, float(np.median(values)), len(values), min(values), max(values), 0.0, seed)
        for measure, values in (
            ("correlation", [each.correlation for each in likenesses]),
            ("band power", [each.band_power for each in likenesses]),
        )
    ]


def membership(run: RunFolder, number: int, seed: int, work: Path) -> list[Finding]:
    """Tell trials that trained, of every site, from others of the same subjects; the number is a noise's, 0 is none.

    A site's own layers are seen as it trains them by itself; a sum as the last round of all sites together leaves it.
    """
    federation, noise = run.federation, _noise(number)
    parts, networks = {}, {}
    for site in federation.site:
        parts[site.name] = parted(run.trials(site).training(), seed)
        members = {name: of_branch[0] for name, of_branch in parts[site.name].items()}
        start, words = site_network(federation, run.trials(site)), derive_seed(seed, site.name, "membership")
        networks[site.name] = trained(start, members, federation.settings, View(noise_multiplier=noise), words)
    together: dict[str, SplitModule] = {}
    if any(view.secure for view in _views(noise)):
        together, _ = train_together(
            federation,
            run.store,
            trials_of=lambda opened: {name: of_branch[0] for name, of_branch in parts[opened.site.name].items()},
        )
    findings = []
    for view in _views(noise):
        scores, truth = [], []
        for site in federation.site:
            target = (together if view.secure else networks)[site.name]
            of_site, trained_on = infer_membership(
                target, _strange(run, site), parts[site.name], federation.settings, view, seed
            )
            scores.append(of_site.argsort().argsort() / len(of_site))  # losses of two sites have no common scale
            truth.append(trained_on)
        area, low, high = auc(np.concatenate(scores), np.concatenate(truth))
        findings.append(Finding("membership", str(view), "AUC", area, sum(map(len, truth)), low, high, 0.5, seed))
    return findings


def identity(run: RunFolder, number: int, seed: int, work: Path) -> list[Finding]:
    """Name the subject, then the site, of an update by one of another time; the number is a noise's, 0 is none.

    The updates are of one round on one subject's first, or second, half of trials.
    """
    federation, noise = run.federation, _noise(number)
    networks = {site.name: site_network(federation, run.trials(site)) for site in federation.site}
    updates: dict[str, list[tuple[Layers, Layers]]] = {}
    for site in federation.site:
        updates[site.name] = []
        for halves in _halves(run, site):
            first, second = (
                update_of_round(
                    networks[site.name],
                    half,
                    federation.settings,
                    View(True, noise_multiplier=noise),
                    derive_seed(seed, k),
                )
                for k, half in enumerate(halves)
            )
            updates[site.name].append((first, second))
    rng = np.random.default_rng(seed)

    def sides(view: View, site: str, pairs: Sequence[tuple[Layers, Layers]]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what is seen of a site's updates, of both times."""
        seen: tuple[list[Tensor], list[Tensor]] = [], []
        for pair in pairs:
            for half in (0, 1):
                layers = {name: pair[half][name] for name in view.names(networks[site])}
                if view.secure:
                    drawn = [updates[o][int(rng.integers(len(updates[o])))][half] for o in updates if o != site]
                    layers = summed(layers, drawn)
                seen[half].append(joined(layers))
        return seen

    findings = []
    for view in _views(noise):
        several = {name: pairs for name, pairs in updates.items() if len(pairs) > 1}
        right = sum(n_named(*sides(view, name, pairs)) for name, pairs in several.items())
        n = sum(map(len, several.values()))
        findings.append(
            Finding(
                "subject", str(view), "named rightly", right / n, n, *share_interval(right, n), len(several) / n, seed
            )
        )
        if view.secure:  # one sum is seen for all sites: no update is there to be named
            continue
        common = View(noise_multiplier=noise)  # sites' other layers differ in shape, which alone would tell
        of_sites: tuple[list[Tensor], list[Tensor]] = [], []
        for name, pairs in updates.items():
            seen = sides(common, name, pairs)
            for half in (0, 1):
                of_sites[half].append(torch.stack(seen[half]).mean(0))
        if not view.everything:
            right, n = n_named(*of_sites), len(updates)
            findings.append(
                Finding("site", str(view), "named rightly", right / n, n, *share_interval(right, n), 1 / n, seed)
            )
    return findings


def labels(run: RunFolder, number: int, seed: int, work: Path) -> list[Finding]:
    """Name two labels that a site has, from what one round changes of its common layers."""
    federation = run.federation
    known = {name for site in federation.site for dataset in site.dataset for name in dataset.task_map.values()}
    may_be = sorted(known | set(USUAL))
    right, by_chance = 0, []
    for site in federation.site:
        trials = run.trials(site)
        network = site_network(federation, trials)
        words = derive_seed(seed, site.name, "labels")
        update = update_of_round(network, trials.training(), federation.settings, View(), words)[LAST]
        n_features = network.head(next(iter(trials.labels()))).in_features
        rows = rows_by_label(n_features, len(update), may_be, federation.training.seed)
        own = {name for names in trials.labels().values() for name in names}
        right += set(named_pair(update, rows)) <= own
        by_chance.append(math.comb(len(own), 2) / math.comb(len(may_be), 2))
    n, chance = len(federation.site), float(np.mean(by_chance))
    return [Finding("labels", str(View()), "named rightly", right / n, n, *share_interval(right, n), chance, seed)]


def price(run: RunFolder, number: int, seed: int, work: Path) -> list[Finding]:
    """Train the federation with a noise at every site, and score it; number 0 is without."""
    noise = _noise(number)
    training = run.federation.training.model_copy(update={"seed": seed})
    federation = run.federation.model_copy(update={"training": training})
    if noise is not None:
        federation = private(federation, noise)
    trained_run = RunFolder.create(work / f"price-{number}-{seed}", federation, run.store, 1)
    train_rounds(trained_run, lambda step: None)
    of_sites = [mean_score(trained_run, site) for site in federation.site]
    scores = [100 * float(score["balanced_accuracy"]) for score in of_sites if score]
    findings = [
        Finding("price", str(View(noise_multiplier=noise)), "score", float(np.mean(scores)), len(scores), seed=seed)
    ]
    if noise is not None:
        spent = [epsilon for epsilon, *_ in trained_run.spent().values()]
        findings.append(
            Finding("price", str(View(noise_multiplier=noise)), "epsilon", max(spent), len(spent), seed=seed)
        )
    return findings


def byzantine(run: RunFolder, number: int, seed: int, work: Path) -> list[Finding]:
    """Have the first site send bad updates; the number is of an attack and a way of averaging."""
    attack, strategy = ATTACKS[number // len(STRATEGIES)], STRATEGIES[number % len(STRATEGIES)]
    training = run.federation.training.model_copy(update={"seed": seed})
    contract = run.federation.contract.model_copy(update={"secure_aggregation": False})
    federation = run.federation.model_copy(update={"training": training, "contract": contract})
    folder = work / f"byzantine-{number}-{seed}"
    score = score_beside(federation, run.store, federation.site[0], attack, strategy, folder)
    return [Finding("byzantine", strategy, attack, 100 * score, len(federation.site) - 1, seed=seed)]


def persons(run: RunFolder, number: int, seed: int, work: Path) -> list[Finding]:
    """Tell who is in the sum of one message, persons and sites; the number is a noise's, 0 is none."""
    contract, noise = run.federation.contract, _noise(number)
    cut = contract.person_norm if contract.body == MEANS else math.inf  # sums of squares are cut by nobody
    now: dict[str, list[NDArray[np.float64]]] = {}
    at_another_time: dict[str, list[NDArray[np.float64]]] = {}
    for site in run.federation.site:
        halves = [half for pair in _halves(run, site) for half in pair]
        vectors = [
            clipped(vector, cut).flatten().numpy()
            for half in halves
            for trials in half.values()
            for vector in person_vectors(replace(trials, persons=np.full(len(trials.labels), "the one")))
        ]
        now[site.name], at_another_time[site.name] = vectors[::2], vectors[1::2]
    rng = np.random.default_rng(seed)
    deviation = (noise or 0.0) * contract.person_norm
    everybody = np.stack([vector for vectors in now.values() for vector in vectors])
    of_sites, later = sums_of_sites(now), sums_of_sites(at_another_time)
    view = "sum of one message" + (f", noise {noise:g}" if noise else "")
    findings = []
    for measure, said, own, known in (
        ("person", everybody, everybody, False),
        ("person, others known", everybody, everybody, True),
        ("site", of_sites, later, False),
    ):
        area, low, high = auc(*seen_in_sum(said, own, deviation, rng, known))
        findings.append(Finding("persons", view, measure, area, len(said) * N_DRAWS, low, high, 0.5, seed))
    return findings


Halves = Mapping[str, BranchTrials]
Play = Callable[[RunFolder, int, int, Path], list[Finding]]
PARTS: dict[str, Play] = {
    "inversion": inversion,
    "membership": membership,
    "identity": identity,
    "labels": labels,
    "price": price,
    "byzantine": byzantine,
    "persons": persons,
}


def plays_of(run: RunFolder, parts: Sequence[str], seeds: int) -> list[tuple[str, int, int]]:
    """List a part, a number and a seed of all that is played; without noise where the network bears none."""
    noisy = why_no_noise(run.federation) is None
    noises = list(range(1 + len(NOISE_MULTIPLIERS) if noisy else 1))
    views = [k for k, view in enumerate(VIEWS) if noisy or view.noise_multiplier is None]
    with_extractor = [] if run.federation.contract.space else [len(VIEWS)]  # in the common space there is none to know
    numbers = {
        "inversion": views + with_extractor,
        "membership": noises,
        "identity": noises,
        "labels": [0],
        "price": noises,
        "byzantine": list(range(len(ATTACKS) * len(STRATEGIES))),
        "persons": list(range(1 + len(NOISE_MULTIPLIERS) if run.federation.contract.body == MEANS else 1)),
    }
    return [(part, number, seed) for part in parts for seed in range(seeds) for number in numbers[part]]


def audit(
    run: RunFolder, parts: Sequence[str], seeds: int, n_parallel: int, report: Callable[[str, int, int], None]
) -> list[Finding]:
    """Play parts of the audit, several jobs at once, and write ``audit.csv`` into the run's folder.

    Parameters
    ----------
    run : RunFolder
        Its federation and prepared trials are used; its layers are trained anew, since those of single sites are not
        kept.
    parts : sequence of str
        Of `PARTS`.
    seeds : int
        0 to `seeds` - 1.
    n_parallel : int
        Processes, each with one thread.
    """
    check_auditable(run, parts)
    work = run.path / "audit"
    shutil.rmtree(work, ignore_errors=True)
    jobs = plays_of(run, parts, seeds)
    of_job: dict[tuple[str, int, int], list[Finding]] = {}
    pool = start_workers(n_parallel, threads=1)
    try:
        futures = {pool.submit(_play, run.path, job, work): job for job in jobs}
        report("audit", 0, len(jobs))
        for done, future in enumerate(as_completed(futures), 1):
            of_job[futures[future]] = future.result()
            report("audit", done, len(jobs))
    finally:
        stop_workers(pool)
        shutil.rmtree(work, ignore_errors=True)
    findings = [finding for job in jobs for finding in of_job[job]]
    _write(run.path / "audit.csv", findings)
    return findings


def _write(path: Path, findings: Sequence[Finding]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Finding)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(finding) for finding in findings)
    with replaced(path) as out:
        out.write(text.getvalue().encode())


def _play(path: Path, job: tuple[str, int, int], work: Path) -> list[Finding]:
    part, number, seed = job
    return PARTS[part](RunFolder(path), number, seed, work)


def _of_signals(contract: Contract) -> bool:
    return contract.extractor != "riemann" and contract.body != "tangent"


def _noise(number: int) -> float | None:
    return NOISE_MULTIPLIERS[number - 1] if number else None


def _views(noise: float | None) -> list[View]:
    return [view for view in VIEWS if view.noise_multiplier == noise]


def _branches(run: RunFolder) -> list[tuple[Site, str, BranchTrials]]:
    """List all branches with the trials that train them."""
    return [
        (site, branch, trials) for site in run.federation.site for branch, trials in run.trials(site).training().items()
    ]


def _strange(run: RunFolder, site: Site) -> SplitModule:
    """Make a network for a site's headset whose private layers began elsewhere."""
    other = site.model_copy(update={"secret_seed": derive_seed(run.federation.training.seed, site.name, "attacker")})
    return site_network(run.federation, run.trials(other))


def _trial(trials: BranchTrials, number: int) -> tuple[Tensor, Tensor]:
    signals = torch.from_numpy(np.array(trials.signals[number], np.float64))
    return signals, torch.tensor(int(trials.labels[number]))


def _gradients_of_others(run: RunFolder, site: Site, rng: np.random.Generator, view: View) -> list[Layers]:
    """Return the gradients of one trial of each other site, in the layers that are seen."""
    gradients = []
    for other, branch, trials in _branches(run):
        if other.name != site.name:
            network = site_network(run.federation, run.trials(other)).double().eval()
            x, label = _trial(trials, int(rng.integers(len(trials.labels))))
            gradients.append(gradient_of_trial(network, branch, x, label, view))
    return gradients


def _halves(run: RunFolder, site: Site) -> list[tuple[Halves, Halves]]:
    """Play each of a site's subjects' training trials in time, by the branch that they go through."""
    halves: list[tuple[Halves, Halves]] = []
    for dataset in site.dataset:
        for subject in dataset.subjects or []:
            alone = dataset.model_copy(
                update={"subjects": [subject], "targets": [t for t in dataset.targets if t == subject]}
            )
            of_subject = run.trials(site.model_copy(update={"dataset": [alone]})).training()
            sides = []
            for part in (0, 1):
                sides.append(
                    {
                        branch: BranchTrials(
                            np.array_split(trials.signals, 2)[part],
                            np.array_split(trials.labels, 2)[part],
                            trials.names,
                        )
                        for branch, trials in of_subject.items()
                    }
                )
            halves.append((sides[0], sides[1]))
    return halves
