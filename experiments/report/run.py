"""A run's report: what was run, how well each site and subject did, what the networks look at, what it cost."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError
from data.sources import ON_DISK
from data.store import Store
from experiments.adopt import ADOPTED, CALIBRATION, CURVE
from experiments.compare_runs import compare_runs, decision, rows_of, verdict
from experiments.control import gain_over_null
from experiments.evaluate import METHODS, PREDICTED, PROBABILITY, TEMPERATURES
from experiments.remarks import odd_paces
from experiments.report import figures
from experiments.report.page import Figure, Section, TableOf, write_page
from experiments.report.quality import mu_difference
from experiments.report.scores import ScoreDraws
from experiments.report.sureness import sureness
from experiments.statistics import Estimate
from federation.contract import ONE_MESSAGE, Federation, Site
from federation.run_folder import HISTORY, TIMING, RunFolder
from mfscsn.patterns import filter_patterns, label_patterns

OWN, LOCAL, OURS = METHODS
REDACTED = "..."
SHARING, ADOPTING, ALONE = "sharing", "adopting", "alone"
NETWORKS = {
    "riemann": "an extractor (a learned projection of re-centred covariances) and one linear layer",
    "shallow": "a ShallowConvNet",
    "shallow-group": "a ShallowConvNet with group norm",
    "common-space": "an EEGNet in the common space",
}
OURS_IS = {
    SHARING: "the site's network in the federation: last averaged common layers, the site's own first and last ones",
    ADOPTING: "the site's network around the adopted common layers, which stayed as they came",
    ALONE: "the site's own network: nothing is shared with anybody",
}
ALIGNED = {
    "adaptive": "a subject's trials are aligned by a mean that follows them in time order, test trials without labels",
    "recentred": "a subject's trials are aligned by the mean of its training trials",
    "euclidean": "a subject's trials are whitened by the mean covariance of its training trials",
    "standard": "every sample is brought to mean 0 and deviation 1 over the channels",
    "none": "trials are not aligned",
}
KNOWN_BY_HEART = 0.97  # training accuracy, beside a score at chance
MOST_RECORDINGS = 120
RIM = re.compile(r"^(fp|af[789]|af10|f[789]|f10|ft|t\d|tp|p[789]|p10|po[789]|po10|o|i)", re.IGNORECASE)  # eyes, muscles
N_BRANCHES = 4  # whose patterns are drawn, of a site
MOST_MAPS, MOST_MATRICES = 12, 24  # figures of a kind: a report stays under 10 MB


def report(run: RunFolder) -> Path:
    """Write ``report.html`` into a run's folder, and its figures, as PNG and SVG, into ``figures/``.

    What is missing is left out, with a line that says how to get it: a server of a deployment has no recordings, a
    run that was stopped has no scores.

    Returns
    -------
    Path
        Of the report.
    """
    folder = run.path / "figures"
    predictions = _table(run, "predictions.csv", PREDICTED)
    draws = None if predictions is None else ScoreDraws(predictions)
    sections = [
        _summary(run, draws),
        _sites(run),
        _scores(run, draws, folder),
        _rounds(run, folder),
        _confusion(run, predictions, folder),
        _sureness(run, predictions),
        _patterns(run, folder),
        _calibration(run, folder),
        _recordings(run),
        _cost(run),
        _configuration(run),
    ]
    path = run.path / "report.html"
    environment = run.environment
    about = f"Run of {environment['started'][:16].replace('T', ' ')}, seed {run.federation.training.seed}, mfscsn"
    about += f" {environment['packages']['mfscsn']}"
    about += f", commit {environment['commit'][:12]}" if environment["commit"] else ""
    write_page(path, f"{run.federation.name}: report of a run", about, [s for s in sections if s is not None])
    return path


def warnings(run: RunFolder, draws: ScoreDraws | None) -> list[str]:
    """Return what a reader should know before believing the rest."""
    lines = []
    if run.last_round() < run.federation.training.rounds:
        lines.append(f"The run stands at round {run.last_round()} of {run.federation.training.rounds}.")
    for row in run.history():
        if row["status"] != "ok":
            lines.append(f"Round {row['round']}: site {row['site']} was left out, it {row['status']}.")
    if len(lines) > 12:
        lines = [*lines[:12], f"and {len(lines) - 12} more rounds without a site: history.csv has them."]
    if draws is not None:
        losing = draws.losing_sites()
        for site, keys in draws.sites().items():
            score, chance = draws.of(keys, OURS), draws.chance(keys)
            if score.low <= chance:
                lines.append(f"Site {site} is not told from chance: {score} where guessing gives {chance:.1f}.")
                if (trained := _last_accuracy(run, site)) is not None and trained > KNOWN_BY_HEART:
                    lines.append(
                        f"Site {site} tells {100 * trained:.0f} % of its training trials: it knows them by heart."
                        " Too few of them, cues at the wrong place, or a task that is not there?"
                    )
            if _kind(run) == ALONE:
                continue
            if site in losing:
                lines.append(
                    f"Site {site} loses by {_kind(run)} more than its test trials explain, with this seed:"
                    f" {_signed(losing[site])} points against {LOCAL}."
                )
            worse = [key[2] for key in keys if draws.of([key], OURS, LOCAL).high < 0]
            if worse and len(keys) > 1:
                lines.append(
                    f"Site {site}: {_kind(run)} costs subject {', '.join(worse)} more than test trials explain."
                )
    return lines + [line for site in run.federation.site for line in odd_paces(run.federation, site, run.store)]


def _last_accuracy(run: RunFolder, site: str) -> float | None:
    """Return a site's training accuracy in its last round, where it let that out."""
    told = [row["accuracy"] for row in run.history() if row["site"] == site and row["accuracy"]]
    return float(told[-1]) if told else None


def _kind(run: RunFolder) -> str:
    """Return what a run is about: sharing with others, adopting what others have shared, or neither."""
    if (run.path / CALIBRATION).exists():  # whatever a user calls a federation
        return ADOPTING
    return ALONE if len(run.federation.site) == 1 or run.federation.contract.share == "none" else SHARING


def _table(
    run: RunFolder, name: str, columns: Sequence[str], numbers: Sequence[str] = (), newer: Sequence[str] = ()
) -> pd.DataFrame | None:
    """Read a table of a run, as text but for `numbers`; None where it is missing or empty, InputError if damaged.

    Columns that are `newer` than the run are empty.
    """
    path = run.path / name
    if not path.exists():
        return None
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows = rows.assign(**{column: "" for column in newer if column not in rows})
        rows = rows[[*columns, *(name for name in map(str, rows) if name.startswith(PROBABILITY))]]
        for column in numbers:
            rows[column] = pd.to_numeric(rows[column])
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise InputError(
            f"{path}: damaged, cannot be read as a table of {', '.join(columns)}; `mfscsn evaluate` writes scores and"
            " predictions again"
        ) from error
    return rows if len(rows) else None


def _summary(run: RunFolder, draws: ScoreDraws | None) -> Section:
    contract, training, n_sites = run.federation.contract, run.federation.training, len(run.federation.site)
    how = (
        f"{run.last_round()} rounds, extractor {contract.extractor}, alignment {contract.alignment},"
        f" strategy {contract.strategy}, shared: {contract.share}, learning rate {training.lr:g},"
        f" batches of {training.batch_size}"
    )
    if contract.strategy == ONE_MESSAGE:
        how = f"one message a site: {contract.body} of trials' tangent vectors, added; nothing was trained in rounds"
    words = [
        f"{n_sites} site{'s' * (n_sites > 1)}, {how}. Trials from {contract.window[0]:g} to {contract.window[1]:g} s"
        f" after the cue, {contract.band[0]:g} to {contract.band[1]:g} Hz, {contract.sfreq:g} Hz."
    ]
    if _kind(run) == ADOPTING:
        common = run.federation.name.removesuffix(ADOPTED)
        words.append(f"The common layers were adopted from {common} and stayed as they were; nothing was sent.")
    if _kind(run) == ALONE:
        words.append(
            f"Nothing is shared with anybody, so {OURS} is the site's own network. The question here is whether a"
            f" site's subjects together beat {OWN}."
        )
    if draws is None:
        words.append("There are no scores here: `mfscsn evaluate` writes them where the test trials are.")
    else:
        keys = list(draws.of_subject)
        if _kind(run) == SHARING:
            compared = compare_runs(rows_of([run.path]))
            words.insert(0, f"{decision(compared)}: {verdict(compared)}.")
        for rival in (OWN,) if _kind(run) == ALONE else (OWN, LOCAL):
            change = draws.of(keys, OURS, rival)
            better = sum(draws.of([key], OURS, rival).mean > 0 for key in keys)
            words.append(
                f"{OURS} minus {rival}: {_signed(change)} points over {len(keys)} target subjects, {better} better."
            )
        if (taught := gain_over_null(run)) is not None:
            words.append(
                f"{OURS} minus its null, the same beside sites whose labels were shuffled: {taught}; that interval is"
                " over subjects."
            )
        elif _kind(run) == SHARING:
            words.append("How much of it the others taught, `mfscsn control RUN` tells: their labels shuffled.")
        words.append(
            "Intervals are 95 % over these subjects' test trials. One seed: another one, and other subjects, differ by"
            " more. `mfscsn evaluate RUN...` averages runs of several seeds."
        )
    lines = warnings(run, draws)
    if not lines:
        words.append("No warning: no site near chance or worse off, none left out of a round, no odd distance of cues.")
    return Section("Summary", words, warnings=lines)


def _sites(run: RunFolder) -> Section | None:
    rows, electrodes = [], {}
    for site in run.federation.site:
        for dataset in site.dataset:
            try:
                store = Store(dataset.recipe(run.federation.contract).folder(run.store))
                subjects = dataset.subjects or store.subjects()
                trials = store.trials(subjects[0])
            except InputError as error:
                return Section("Sites", [f"Prepared trials cannot be read any more: {_shown(run, error)}"])
            n_trials = sum(len(store.trials(subject)) for subject in subjects)
            alone = site.model_copy(update={"dataset": [dataset]})
            n_train = run.trials(alone).n_training()
            labels = ", ".join(dataset.labels(run.federation.contract))
            counts = (len(trials.channels), len(subjects), len(dataset.targets), n_trials, n_train)
            source = dataset.source.partition(":")
            where = f"{source[0]}:{source[2].rpartition('/')[2]}"
            rows.append([site.name, where, *map(str, counts), labels])
            electrodes[f"electrodes of site {site.name}, {dataset.name}"] = ", ".join(trials.channels)
    if not rows:
        return None
    columns = [
        ("site", ""),
        ("data set", ""),
        *((n, "number") for n in ("channels", "subjects", "targets", "trials", "that train")),
    ]
    words = [
        "Targets are scored: their calibration trains, their later trials are the test. Other subjects train whole."
    ]
    return Section("Sites", words, tables=[TableOf([*columns, ("labels", "words")], rows)], details=electrodes)


def _recordings(run: RunFolder) -> Section | None:
    """List what the prepared trials tell of each recording, and what was left out of it."""
    rows, left_out, imagery = [], [], []
    for site in run.federation.site:
        for dataset in site.dataset:
            try:
                store = Store(dataset.recipe(run.federation.contract).folder(run.store))
                subjects = dataset.subjects or store.subjects()
                for subject in subjects:
                    trials, amplitudes = store.trials(subject), store.amplitudes(subject)
                    if (apart := mu_difference(trials)) is not None:
                        imagery.append([site.name, subject, f"{apart:+.2f}"])
                    names = [f"{s}/{r}" for s, r in zip(trials.sessions, trials.runs, strict=True)]
                    for name, microvolts in amplitudes.items():
                        shown = " ".join(part for part in name.split("/") if part) or "-"
                        rows.append([site.name, subject, shown, str(names.count(name)), f"{microvolts:.1f}"])
                    noted = [f"{note} ({n} recordings)" if n > 1 else note for note, n in store.notes(subject).items()]
                    left_out += [[site.name, subject, note] for note in noted]
            except InputError:
                return None  # `_sites` says why
    if not rows:
        return None
    columns = [("site", ""), ("subject", ""), ("session, run", ""), ("trials", "number"), ("microvolts", "number")]
    words = [
        "Microvolts: the median deviation of a trial's channels in the band. A recording far louder than the subject's"
        " others has a loose electrode, or another unit."
    ]
    tables = [TableOf([("site", ""), ("subject", ""), ("left out, or odd", "words")], left_out)] if left_out else []
    if imagery:
        words.append(
            "Hands apart: the mu rhythm (8 to 13 Hz) at C3 over that at C4, trials of the left hand minus those of the"
            " right, in standard deviations. Imagery lowers the rhythm over the other side, so it is above 0 in most"
            " people; near 0, a network has little of that kind to find."
        )
        columns_of = [("site", ""), ("subject", ""), ("hands apart, SD", "number")]
        tables.append(TableOf(columns_of, imagery[:MOST_RECORDINGS]))
    if len(rows) > MOST_RECORDINGS:
        words.append(f"Of {len(rows)} recordings, the first {MOST_RECORDINGS} are listed.")
    return Section("Recordings", words, tables=[*tables, TableOf(columns, rows[:MOST_RECORDINGS])])


def _scores(run: RunFolder, draws: ScoreDraws | None, folder: Path) -> Section | None:
    if draws is None:
        rows = [
            [r["site"], r["status"], r["n_targets"] or "-", _percent(r["balanced_accuracy"])] for r in run.site_scores()
        ]
        columns = [("site", ""), ("last layers", ""), ("targets", "number"), ("balanced accuracy, percent", "number")]
        return Section("Scores", tables=[TableOf(columns, rows, "what sites let out")]) if rows else None
    columns = [("site", ""), ("subject", ""), *((m, "number") for m in reversed(METHODS))]
    columns += [("chance", "number"), ("test trials", "number")]
    decides = _kind(run) != ALONE
    if decides:  # first, since a phone shows three columns
        columns.insert(2, (f"{OURS} minus {LOCAL}", "number"))
    table, means = [], []

    def row(site: str, subject: str, keys: Sequence[tuple[str, ...]]) -> list[str]:
        cells = [str(draws.of(keys, method)) for method in reversed(METHODS)]
        cells += [f"{draws.chance(keys):.0f}", str(sum(draws.n_test[key] for key in keys))]
        return [site, subject, *([_signed(draws.of(keys, OURS, LOCAL))] if decides else []), *cells]

    for site, keys in draws.sites().items():
        several = len({key[1] for key in keys}) > 1
        table += [row(site, f"{key[1]} {key[2]}" if several else key[2], [key]) for key in keys]
        means.append(row(site, "mean", keys))
    caption = "balanced accuracy, percent (95 %)"
    network = NETWORKS[run.federation.contract.extractor]
    meant = [
        [OWN, "a linear classifier of the subject's own calibration trials alone"],
        [LOCAL, f"{network} and a linear classifier of all the site's subjects, nothing shared; the mean of both"],
        [OURS, OURS_IS[_kind(run)]],
    ]
    words = [
        "Balanced accuracy: the mean over a subject's labels of the share of test trials that was classified correctly."
        f" {ALIGNED[run.federation.contract.alignment].capitalize()}."
    ]
    if _kind(run) != ALONE:
        changes = {f"{key[0]} {key[2]}": draws.of([key], OURS, LOCAL) for key in draws.of_subject}
        gained = [name for name, change in changes.items() if change.low > 0]
        lost = [name for name, change in changes.items() if change.high < 0]
        words.append(
            f"By {_kind(run)}, against {LOCAL}: {_named('gained', gained)}, {_named('lost', lost)}; the intervals of"
            f" the other {len(changes) - len(gained) - len(lost)} span zero. By chance alone, one subject in forty"
            " seems to gain and one to lose."
        )
    return Section(
        "Scores",
        words,
        [
            TableOf([("method", ""), ("what it is", "words")], meant),
            TableOf(columns, means, f"sites: {caption}"),
            TableOf(columns, table, f"subjects: {caption}"),
        ],
        [figures.gains(draws, folder)],
    )


def _rounds(run: RunFolder, folder: Path) -> Section | None:
    measured = ("loss", "accuracy", "distance", "held_out")
    history = _table(run, "history.csv", HISTORY, ("round", *measured), newer=("held_out",))
    if history is None:
        return None
    wanted = [("loss", "training loss"), ("accuracy", "training accuracy")]
    words = ["Loss and accuracy are of training trials, measured while training, and only where a site lets them out."]
    if history["held_out"].notna().any():
        wanted.append(("held_out", "balanced accuracy, held out"))
        words.append(
            "Held out: on calibration trials of the targets that train nothing, with the average of that round. Where"
            " it falls while training accuracy rises, fewer rounds would do."
        )
    if _kind(run) == SHARING:
        wanted.append(("distance", "distance from the average"))
        words.append("The distance is of a site's common layers from the sites' average, over the norm of that.")
    drawn = [figures.curves(history, name, what, folder) for name, what in wanted]
    return Section("Rounds", words, figures=[figure for figure in drawn if figure is not None])


def _confusion(run: RunFolder, rows: pd.DataFrame | None, folder: Path) -> Section | None:
    if rows is None:
        return None
    drawn: list[Figure] = []
    for site in run.federation.site:
        for dataset in site.dataset:
            of_set = rows[(rows["site"] == site.name) & (rows["dataset"] == dataset.name) & (rows["method"] == OURS)]
            if len(of_set):
                known = [
                    n
                    for n in dataset.labels(run.federation.contract)
                    if n in set(of_set["label"]) | set(of_set["predicted"])
                ]
                if len(drawn) == MOST_MATRICES:
                    return Section("Confusion", [f"From site {site.name} on, no more are drawn."], figures=drawn)
                drawn.append(figures.confusion(of_set, known, site.name, dataset.name, folder))
    return Section("Confusion", figures=drawn) if drawn else None


def _sureness(run: RunFolder, rows: pd.DataFrame | None) -> Section | None:
    """Set how sure the federated network is of its answers beside how many are right."""
    if rows is None or not any(str(name).startswith(PROBABILITY) for name in rows):  # older runs have none
        return None
    fitted = _table(run, "temperatures.csv", TEMPERATURES, ("n_held_out", "temperature"))
    of_site: dict[str, float] = {}
    if fitted is not None:
        ours = fitted[fitted["method"] == OURS]
        of_site = dict(zip(ours["site"], ours["temperature"], strict=True))
    columns = [("site", ""), *((n, "number") for n in ("sure, percent", "right, percent", "log loss"))]
    columns += [(n, "number") for n in ("temperature", "sure without it", "log loss without it", "test trials")]
    table = []
    for site, mean in sureness(rows, of_site).to_dict("index").items():
        of = of_site.get(str(site), np.nan)
        shown = [100 * mean["sure"], 100 * mean["right"], mean["log_loss"], of]
        shown += [100 * mean["sure_without"], mean["log_loss_without"]]
        forms = (".1f", ".1f", ".3f", ".2f", ".1f", ".3f")
        cells = ["-" if np.isnan(value) else format(value, form) for value, form in zip(shown, forms, strict=True)]
        table.append([str(site), *cells, str(mean["n_trials"])])
    words = [
        f"How sure {OURS} is of its answers, on average, beside how many of them are right: alike is good. Where"
        " trials were held out, they have fitted a temperature."
    ]
    return Section("Probabilities", words, tables=[TableOf(columns, table)])


def _patterns(run: RunFolder, folder: Path) -> Section | None:
    drawn: list[Figure] = []
    words = [
        "How the signal over the head changes with what a site's network computes, over its training trials; what"
        " tells subjects apart is taken out. A pattern shows where a network's evidence comes from, not that it is"
        " right: with a score near chance it shows nothing, and of few trials little. With two labels, the second row"
        " is the first, turned round."
    ]
    for site in run.federation.site:
        if not site.dataset:
            continue
        if len(drawn) >= MOST_MAPS:
            words.append(f"From site {site.name} on, no more are drawn.")
            break
        try:
            drawn += _maps(run, site, folder, words)
        except InputError as error:
            words.append(f"Not for site {site.name}: {_shown(run, error)}")
    return Section("Patterns", words, figures=drawn) if drawn or len(words) > 1 else None


def _maps(run: RunFolder, site: Site, folder: Path, words: list[str]) -> list[Figure]:
    """Draw what each branch of a site looks at; add to `words` what could not be drawn."""
    contract, upper = run.federation.contract, run.federation.contract.band[1] + 10
    network, opened = run.load_network(site.name), run.trials(site)
    labels, trials, recorded = opened.labels(), opened.training(), opened.training_signals()
    drawn = []
    for branch in list(trials)[:N_BRANCHES]:
        inputs, signals = trials[branch].signals, [part.signals for part in recorded[branch]]
        channels = recorded[branch][0].channels
        patterns = label_patterns(network, branch, inputs, signals, contract.sfreq)
        filters = filter_patterns(network, branch, inputs, signals, contract.sfreq, upper)
        maps = figures.label_maps(patterns, channels, labels[branch], len(inputs), site.name, branch, folder)
        for label, of_label in zip(labels[branch], patterns, strict=True):
            strongest = channels[int(np.abs(of_label).max(axis=0).argmax())]
            if RIM.match(strongest) and len(channels) > 3:
                words.append(
                    f"Site {site.name}, {branch}: what tells {label} is strongest at {strongest}, at the rim: eyes,"
                    " muscles or attention may be decoded, and no imagery."
                )
        if maps is None:
            words.append(f"Site {site.name}, {branch}: too few electrodes have a known place for a map.")
        also = figures.filter_maps(filters, channels, contract.sfreq, upper, site.name, branch, folder)
        drawn += [figure for figure in (maps, also) if figure is not None]
    if len(trials) > N_BRANCHES:
        words.append(f"Site {site.name}: the first {N_BRANCHES} of {len(trials)} branches.")
    return drawn


def _calibration(run: RunFolder, folder: Path) -> Section | None:
    rows = _table(run, CALIBRATION, CURVE, ("seed", "n_calibration", "balanced_accuracy"))
    if rows is None:
        return None
    mean = 100 * rows.groupby(["n_calibration", "method"], sort=False)["balanced_accuracy"].mean().unstack()
    columns = [("calibration trials", "number"), *((name, "number") for name in mean.columns)]
    table = TableOf(columns, [[str(n), *(f"{value:.1f}" for value in line)] for n, line in mean.iterrows()])
    words = ["Means over target subjects and three seeds, on the same test trials; the table of scores is of one seed."]
    return Section("Calibration", words, tables=[table], figures=[figures.calibration_curve(rows, folder)])


def _cost(run: RunFolder) -> Section | None:
    timing = _table(run, "timing.csv", TIMING, ("round", "seconds", "round_seconds"))
    if timing is None or not run.last_round():
        return None
    layers = run.load_common(run.last_round())
    size = sum(layer.numel() * layer.element_size() for layer in layers.values())
    rounds = int(timing["round"].max())
    rows = []
    for site, of_site in timing.groupby("site", sort=False):
        n = len(of_site)
        rows.append([str(site), str(n), f"{of_site['seconds'].median():.2f}", f"{2 * size * n / 1e6:.2f}"])
    seconds = timing.drop_duplicates("round")["round_seconds"]
    words = [f"{rounds} rounds took {seconds.sum():.1f} s, the median round {seconds.median():.2f} s."]
    columns = [("site", ""), ("rounds", "number"), ("s a round, median", "number")]
    if _kind(run) == SHARING:
        words.append(f"The common layers are {len(layers)} arrays, {size / 1000:.1f} kB each way.")
        columns.append(("MB of layers, both ways", "number"))
    rows = [row[: len(columns)] for row in rows]
    return Section("Cost", words, [TableOf(columns, rows)])


def _configuration(run: RunFolder) -> Section:
    details = {
        "federation.toml, as it was frozen, without what is secret or tells of this machine": redacted(run).to_toml(),
        "environment.json": json.dumps({**run.environment, "store": REDACTED}, indent=1),
    }
    return Section("Configuration", details=details)


def _shown(run: RunFolder, error: InputError) -> str:
    return str(error).replace(str(run.store), REDACTED).replace(str(run.path), REDACTED)


def redacted(run: RunFolder) -> Federation:
    """Return a run's federation without secret seeds and without the folders that recordings lie in."""
    f = run.federation
    sites = []
    for site in f.site:
        datasets = []
        for dataset in site.dataset:
            kind, _, name = dataset.source.partition(":")
            source = f"{kind}:{REDACTED}/{Path(name).name}" if kind in ON_DISK else dataset.source
            datasets.append(dataset.model_copy(update={"source": source}))
        sites.append(site.model_copy(update={"dataset": datasets, "secret_seed": None}))
    return f.model_copy(update={"site": sites, "data_root": REDACTED})


def _named(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what}" + (f" ({', '.join(names)})" if names else "")


def _signed(change: Estimate) -> str:
    mean, low, high = (f"{round(value, 1) + 0.0:+.1f}" for value in (change.mean, change.low, change.high))
    return f"{mean} ({low} to {high})"


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f}" if share else "-"
