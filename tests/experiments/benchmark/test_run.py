"""The benchmark on the tiny federation: the same as through Flower, resumable, without leaks."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LoopGrid, federation_of, mfscsn, refused, tiny_toml, write_bids

from data.errors import InputError
from experiments.benchmark import federated as benchmark_federated
from experiments.benchmark import run as benchmark
from experiments.benchmark.compare import estimate
from experiments.benchmark.federated import METHODS, common_channels, configured, run_method
from experiments.benchmark.local import ALONE, OWN_PASSES, REGIONS, of_region, run_alone
from experiments.benchmark.run import (
    Bench,
    Job,
    Only,
    _split,
    jobs_of,
    load_bench,
    missing_jobs,
    of_fold,
    prepare_bench,
    read_results,
    run_benchmark,
    run_job,
    shuffled_store,
)
from federation import plain_loop
from federation.contract import Dataset, Part
from federation.plain_loop import train_together
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_network import server_network, site_network
from federation.site_trials import SiteTrials
from mfscsn import experts
from mfscsn.common_space import mirrored

RIEMANN = tiny_toml().replace('"shallow"', '"riemann"').replace("fine_tune = 0", "fine_tune = 2")
IN_SPACE = RIEMANN.replace('"riemann"', '"common-space"')
SPLIT = ("calibration = { first = 12 }", "calibration = { first = 12 }\ntest = { after = 12 }")


@pytest.fixture
def tiny(tmp_path):
    text = RIEMANN.replace(*SPLIT).replace('{ runs = ["0"] }', '{ runs = ["0"] }\ntest = { runs = ["1"] }')
    return federation_of(text, tmp_path)


@pytest.fixture
def bench(tmp_path, tiny):
    (tmp_path / "bench.toml").write_text(
        'federation = "federation-under-test.toml"\nseeds = 2\n'
        'methods = ["own-recentred", "mf-scsn-unshared", "mf-scsn"]\n'
    )
    return tmp_path / "bench.toml"


@pytest.fixture
def here(monkeypatch):
    """Jobs in this process."""

    class Pool:
        def submit(self, work, *args):
            future = benchmark_future()
            future.set_result(work(*args))
            return future

    from concurrent.futures import Future as benchmark_future

    monkeypatch.setattr(benchmark, "start_workers", lambda n_processes, threads: Pool())
    monkeypatch.setattr(benchmark, "stop_workers", lambda pool: None)


@pytest.mark.parametrize(
    ("text", "contract"),
    [
        (RIEMANN, 'weighting = "trials"'),
        (RIEMANN, 'weighting = "equal"'),
        (IN_SPACE, 'body = "eegnet"'),
        (IN_SPACE, 'body = "tangent"'),
    ],
)
def test_trained_together_is_what_flower_trains(tmp_path, prepared, text, contract):
    text = text.replace("[contract]", f"[contract]\n{contract}")
    federation = federation_of(text.replace("[training]", '[training]\nschedule = "cosine"'), tmp_path)
    run = RunFolder.create(tmp_path / "run", federation, prepared, 1)
    federate(LoopGrid(run), run)
    networks, _ = train_together(federation, prepared)
    for site in federation.site:
        private, _ = run.site(site.name).load_private(99, SiteTrials(site, federation.contract, prepared).digest())
        for theirs in (run.load_common(2), private):
            own = networks[site.name].state_dict()
            assert theirs and all(torch.allclose(own[name], theirs[name], rtol=0, atol=1e-7) for name in theirs)


def test_every_method_runs_and_scores_every_target(tiny, copied_store, monkeypatch):
    for name, method in METHODS.items():  # two rounds show as much of this as forty
        few = {key: 2 if key == "rounds" else value for key, value in method.training.items()}
        monkeypatch.setitem(METHODS, name, replace(method, training=few))
    bench = Bench(federation="", methods=[*ALONE, *METHODS], seeds=1)
    tiny = prepare_bench(bench, tiny, copied_store, lambda *step: None)
    who = {("north", "3", 8), ("south", "1", 12), ("south", "2", 12)}
    left_out = {"own-eeginception"}  # its pooling wants longer trials
    left_out |= {f"common-linear-{region}" for region in REGIONS}  # no headset here has channels there
    left_out |= {name for name in METHODS if METHODS[name].no_recording}  # all of the south's subjects are targets
    for name in set(bench.methods) - left_out:
        rows = run_job(Job(name, 0, None), tiny, copied_store)
        assert {(row["site"], row["subject"], row["n_test"]) for row in rows} == who, name
        assert len(rows) == 3 and all(0 <= row["balanced_accuracy"] <= 1 for row in rows), name
        sent = bool(rows[0]["bytes"])
        nothing = name not in METHODS or METHODS[name].centralised or METHODS[name].frozen or "unshared" in name
        assert sent != nothing, name


def test_bytes_are_the_common_layers_down_and_up(tiny, prepared):
    (row, *_) = run_method(tiny, METHODS["mf-scsn"], 0, prepared)
    assert row.n_bytes == 2 * 2 * 4 * (50 * 50 + 50)


def test_the_null_is_a_run_for_each_site(tiny, prepared, monkeypatch):
    runs = []
    trained = benchmark_federated._trained_and_predicted
    monkeypatch.setattr(
        benchmark_federated, "_trained_and_predicted", lambda *words: runs.append(words) or trained(*words)
    )
    found = run_method(tiny, METHODS["mf-scsn-null"], 0, prepared)
    assert [words[3] for words in runs] == ["north", "south"] and [f.site for f in found] == ["north", "south", "south"]


def test_in_the_null_labels_are_shuffled_within_each_run_of_the_others_alone(tiny, prepared, monkeypatch):
    seen = []
    trained = train_together

    def spy(federation, store, change, trials_of, **settings):
        seen.append({site.name: trials_of(SiteTrials(site, federation.contract, store)) for site in federation.site})
        return trained(federation, store, change, trials_of, **settings)

    monkeypatch.setattr(plain_loop, "train_together", spy)
    run_method(tiny, METHODS["mf-scsn-null"], 0, prepared)
    for kept, of_sites in zip(["north", "south"], seen, strict=True):
        for site in tiny.site:
            opened = SiteTrials(site, tiny.contract, prepared)
            runs = opened.training_runs()
            for branch, true in opened.training().items():
                found = of_sites[site.name][branch]
                np.testing.assert_array_equal(found.signals, true.signals)
                assert (found.labels == true.labels).all() == (site.name == kept)
                for run in set(runs[branch]):  # a run keeps its tasks and their counts
                    at = runs[branch] == run
                    assert sorted(found.labels[at]) == sorted(true.labels[at]) and len(set(runs[branch])) > 1


def test_an_own_network_is_shown_as_many_trials_as_its_sites(tiny, prepared, monkeypatch):
    """In batches of the eight trials that it has."""
    import braindecode.models

    shown = []

    class Counted(torch.nn.Module):
        def __init__(self, n_chans, n_outputs, n_times, sfreq):
            super().__init__()
            self.layer = torch.nn.Linear(n_chans * n_times, n_outputs)

        def forward(self, x):
            shown.append(len(x) if self.training else 0)
            return self.layer(x.flatten(1))

    monkeypatch.setattr(braindecode.models, "EEGNet", Counted)
    run_alone("own-eegnet", tiny.model_copy(update={"site": tiny.site[:1]}), 0, prepared)
    wanted = OWN_PASSES * SiteTrials(tiny.site[0], tiny.contract, prepared).n_training()
    assert wanted == 800 and sum(shown) == 800


def test_rivals_that_share_the_extractor_see_the_channels_that_all_headsets_have(tiny, prepared):
    assert common_channels(tiny, prepared) == ["C3", "Cz", "C4"]
    federation = configured(tiny, METHODS["fedavg"], 7, prepared)
    assert federation.contract.channels == ["C3", "Cz", "C4"]


def test_in_centralised_all_is_one_site(tiny, prepared):
    federation = configured(tiny, METHODS["centralised"], 7, prepared)
    assert [site.name for site in federation.site] == ["one-place"] and federation.training.seed == 7
    assert [d.name for d in federation.site[0].dataset] == [
        "north--in-one-place--clinic",
        "south--in-one-place--laboratory",
    ]


def test_a_new_site_has_its_calibration_and_the_others_all_trials(tiny, prepared):
    job = Job("mf-scsn", 0, None, new_sites=(("north",), ("south",)))
    found = [of_fold(tiny, replace(job, fold=k)) for k in (0, 1)]
    assert [[site.dataset[0].targets for site in f.site] for f in found] == [[["3"], []], [[], ["1", "2"]]]
    assert [site.name for site in of_fold(tiny, replace(job, method="mf-scsn-unshared", fold=1)).site] == ["south"]
    assert [row["site"] for k in (0, 1) for row in run_job(replace(job, fold=k), tiny, prepared)] == [
        "north", "south", "south",
    ]  # fmt: skip


def test_methods_without_randomness_run_once():
    bench = Bench(federation="", methods=["own-csp-lda", "own-shallow", "mf-scsn"], seeds=2, calibration=[5, 10])
    jobs = jobs_of(bench)
    assert len(jobs) == 2 * (3 + 2)
    assert [job.seed for job in jobs if job.method == "own-csp-lda"] == [0, 0]


def test_goes_on_where_it_was_broken_off(tmp_path, bench, prepared, here, monkeypatch):
    plan, federation, made_with = load_bench(bench)
    results = tmp_path / "results.csv"
    whole = run_benchmark(plan, federation, prepared, tmp_path / "whole.csv", made_with, 1)
    assert list(whole.columns[:4]) == ["method", "site", "dataset", "subject"] and len(whole) == 3 * (1 + 2 + 2)

    def fails(job, *words):
        if job.seed == 1:
            raise KeyboardInterrupt
        return run_job(job, *words)

    monkeypatch.setattr(benchmark, "run_job", fails)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(plan, federation, prepared, results, made_with, 1)
    assert not results.exists()
    first = plan.model_copy(update={"seeds": 1})
    assert len(run_benchmark(first, federation, prepared, results, made_with, 1)) == 9
    ran = []
    monkeypatch.setattr(benchmark, "run_job", lambda job, *words: ran.append(job) or run_job(job, *words))
    rows = run_benchmark(plan, federation, prepared, results, made_with, 1)
    assert {(job.method, job.seed) for job in ran} == {("mf-scsn-unshared", 1), ("mf-scsn", 1)}
    pd.testing.assert_frame_equal(_sorted(rows), _sorted(whole))
    ran.clear()
    run_benchmark(plan, federation, prepared, results, made_with, 1)
    assert ran == []


def _sorted(rows):
    keys = ["method", "seed", "site", "subject"]
    return rows.drop(columns="seconds").sort_values(keys).reset_index(drop=True)


def test_results_that_were_kept_before_a_key_came_are_gone_on_with():
    dataset = Dataset(source="bids:a", tasks=["left_hand", "right_hand"])
    named = ["calibration", "channels", "name", "options", "subjects", "targets", "tasks", "test"]
    assert sorted(_split(dataset)) == named  # a digest of these lies beside every kept table
    assert "held_out" in _split(dataset.model_copy(update={"held_out": Part(runs=["04"])}))


def test_results_of_other_trials_are_refused_and_kept(tmp_path, bench, prepared, copied_store, here):
    plan, federation, made_with = load_bench(bench)
    plan = plan.model_copy(update={"methods": ["own-recentred"]})
    results = tmp_path / "results.csv"
    run_benchmark(plan, federation, prepared, results, made_with, 1)
    before = results.read_bytes()
    folder = federation.site[0].dataset[0].recipe(federation.contract).folder(copied_store)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["subjects"]["1"]["labels"].reverse()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="made with other trials; give another --out"):
        run_benchmark(plan, federation, copied_store, results, made_with, 1)
    with pytest.raises(InputError, match="made with another configuration; give another --out"):
        read_results(results, {**made_with, "new_site": True})
    assert results.read_bytes() == before


def test_fewer_calibration_trials_leave_the_test_as_it_was(tiny, prepared, tmp_path):
    fewer = run_job(Job("mf-scsn", 0, 6), tiny, prepared)
    assert [(row["n_calibration"], row["n_test"]) for row in fewer] == [(6, 8), (6, 12), (6, 12)]
    with pytest.raises(InputError, match="site 'south'.* with no calibration trial, which signals fit the mean"):
        run_job(Job("mf-scsn", 0, 0), tiny, prepared)
    none = run_job(Job("mf-scsn", 0, 0), tiny.model_copy(update={"site": tiny.site[:1]}), prepared)
    assert [(row["n_calibration"], row["n_test"], row["asked"]) for row in none] == [(0, 8, 0)]
    rest = federation_of(RIEMANN, tmp_path)
    with pytest.raises(InputError, match=r'site .north.*test = "rest" would be other trials'):
        run_job(Job("mf-scsn", 0, 6), rest, prepared)


def test_shuffled_labels_stay_with_their_subject_and_run(tiny, prepared, tmp_path):
    shuffled_store(prepared, tmp_path / "shuffled")
    for manifest in prepared.glob("*/manifest.json"):
        before = json.loads(manifest.read_text())["subjects"]
        after = json.loads((tmp_path / "shuffled" / manifest.parent.name / manifest.name).read_text())["subjects"]
        for name in before:
            runs = np.array(before[name]["runs"])
            for run in set(before[name]["runs"]):
                old, new = (np.array(entry[name]["labels"])[runs == run] for entry in (before, after))
                assert sorted(old) == sorted(new)
        assert any(before[name]["labels"] != after[name]["labels"] for name in before)


@pytest.mark.parametrize("method", ["own-adaptive", "site-weighted-adaptive", "mf-scsn", "mf-scsn-riemann", "fedbs"])
def test_test_trials_of_noise_change_no_training(tiny, copied_store, method, monkeypatch):
    """What is trained, to the last bit, does not depend on the signals or labels of test trials."""
    bench = Bench(federation="", methods=[method], seeds=1)
    tiny = prepare_bench(bench, tiny, copied_store, lambda *step: None)
    trained = []
    if method in METHODS:
        kept = plain_loop.train_round

        def train_round(*words, **named):
            log, state = kept(*words, **named)
            trained.append((log.loss, log.accuracy))
            return log, state

        monkeypatch.setattr(plain_loop, "train_round", train_round)
    else:
        from sklearn.linear_model import LogisticRegression

        kept_fit = LogisticRegression.fit

        def fit(self, *words, **named):
            model = kept_fit(self, *words, **named)
            trained.append(model.coef_.tolist())
            return model

        monkeypatch.setattr(LogisticRegression, "fit", fit)

    def run():
        trained.clear()
        if method in ALONE:
            found = run_alone(method, tiny, 0, copied_store)
        else:
            found = run_method(tiny, METHODS[method], 0, copied_store)
        return list(trained), [row.probabilities.tolist() for row in found]

    before = run()
    rng = np.random.default_rng(0)
    for folder in {manifest.parent for manifest in copied_store.glob("*/manifest.json")}:
        manifest = json.loads((folder / "manifest.json").read_text())
        for subject, entry in manifest["subjects"].items():
            clinic = "right_hand" in entry["labels"] and "left_hand" not in entry["labels"]
            if clinic and subject != "3":
                continue
            test = np.array(entry["runs"]) == "1" if clinic else np.arange(len(entry["labels"])) >= 12
            signals = np.load(folder / entry["file"])
            signals[test] = 10 * rng.standard_normal(signals[test].shape)
            np.save(folder / entry["file"], signals)
            entry["sha256"] = "other"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    after = run()
    assert before[0] and before[0] == after[0]
    assert before[1] != after[1]


def test_a_costly_method_has_its_own_seeds_and_folds(tmp_path, bench):
    found = Bench(
        federation="",
        methods=["mf-scsn", "mf-scsn-null"],
        seeds=1,
        folds=2,
        only={"mf-scsn-null": {"folds": [1]}, "mf-scsn": {"seeds": 2}},
    )
    assert [(job.method, job.seed, job.fold) for job in jobs_of(found)] == [
        ("mf-scsn", 0, 0), ("mf-scsn", 0, 1), ("mf-scsn-null", 0, 1), ("mf-scsn", 1, 0), ("mf-scsn", 1, 1),
    ]  # fmt: skip
    none = pd.DataFrame({key: [] for key in ("method", "asked", "seed", "fold")})
    few = found.model_copy(update={"methods": ["mf-scsn-averaged"], "only": {"mf-scsn-averaged": Only(seeds=1)}})
    assert [(job.method, job.seed, job.fold) for job in missing_jobs(few, none)] == [
        ("mf-scsn", 0, 0), ("site-weighted-adaptive", 0, 0), ("mf-scsn", 0, 1), ("site-weighted-adaptive", 0, 1),
    ]  # fmt: skip
    both = found.model_copy(update={"methods": ["mf-scsn", "mf-scsn-averaged"], "only": {**found.only, **few.only}})
    ran = [("mf-scsn", 0), ("mf-scsn", 1), ("mf-scsn-averaged", 0)]
    done = pd.DataFrame([(name, -1, seed, fold) for name, seed in ran for fold in (0, 1)], columns=none.columns)
    assert missing_jobs(both, done) == []  # no second seed is run for the average alone
    bench.write_text(bench.read_text() + '[only]\n"mf-scsn-nul" = { seeds = 1 }\n')
    assert "only: no such method 'mf-scsn-nul'" in refused("benchmark", bench, cwd=tmp_path)


def test_the_command_prints_again_what_it_has(tmp_path, bench, copied_store):
    words = ("benchmark", bench, "--store", copied_store, "--jobs", 2, "--out", tmp_path / "r" / "t.csv")
    code, out, err = mfscsn(*words, cwd=tmp_path)
    assert code == 0, err
    assert "| own-recentred " in out and "minus mf-scsn-unshared" in out
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"t.csv", "t.html", "t.json", "t.svg", "t.png"}
    written = [path.read_bytes() for path in sorted((tmp_path / "r").iterdir())]
    code, again, _ = mfscsn(*words, "--store", "no-recordings", cwd=tmp_path)  # what is there needs none
    assert code == 0 and [path.read_bytes() for path in sorted((tmp_path / "r").iterdir())] == written
    assert again[again.index("mf-scsn minus") :] == out[out.index("mf-scsn minus") :]
    err = refused("benchmark", bench, "--methods", "mf-scsnn", cwd=tmp_path)
    assert "no such method 'mf-scsnn'; did you mean 'mf-scsn'?" in err
    bench.write_text(bench.read_text().replace("seeds = 2", "seeds = 0"))
    assert "seeds: expected greater than or equal to 1, found 0" in refused("benchmark", bench, cwd=tmp_path)


def test_in_folds_each_subject_is_a_target_once_and_the_others_train_whole(tiny, prepared, here, tmp_path):
    """The tiny federation's targets are 3 of north, 1 and 2 of south."""
    bench = Bench(federation="", methods=["site-averaged", "own-recentred"], seeds=1, folds=2)
    assert [(job.method, job.fold) for job in jobs_of(bench)] == [
        ("mf-scsn-unshared", 0), ("site-weighted-adaptive", 0), ("own-recentred", 0),
        ("mf-scsn-unshared", 1), ("site-weighted-adaptive", 1), ("own-recentred", 1),
    ]  # fmt: skip
    even, odd = (of_fold(tiny, job) for job in jobs_of(bench)[::3])
    assert [site.dataset[0].targets for site in even.site] == [[], ["2"]]
    assert [site.dataset[0].targets for site in odd.site] == [["3"], ["1"]]
    n_whole = SiteTrials(even.site[0], tiny.contract, prepared).n_training()
    assert n_whole > SiteTrials(odd.site[0], tiny.contract, prepared).n_training()
    rows = run_benchmark(bench, tiny, prepared, tmp_path / "rows.csv", {"folds": 2}, 1)
    assert sorted(zip(rows["method"], rows["subject"], rows["fold"], strict=True)) == [
        ("own-recentred", "1", 1), ("own-recentred", "2", 0), ("own-recentred", "3", 1),
        ("site-averaged", "1", 1), ("site-averaged", "2", 0), ("site-averaged", "3", 1),
    ]  # fmt: skip
    assert estimate(rows, "own-recentred").mean == pytest.approx(
        100 * rows[rows["method"] == "own-recentred"]["balanced_accuracy"].mean()
    )
    both = bench.model_copy(update={"methods": ["mf-scsn-unshared", "site-averaged"]})
    assert benchmark.missing_jobs(both, read_results(tmp_path / "rows.csv", {"folds": 2})) == []
    north = tiny.site[0]
    dataset = north.dataset[0].model_copy(update={"targets": ["x"]})
    nameless = tiny.model_copy(update={"site": [north.model_copy(update={"dataset": [dataset]})]})
    with pytest.raises(InputError, match="target 'x' has no number, which folds go by"):
        of_fold(nameless, jobs_of(bench)[0])


def test_an_average_is_made_of_kept_logits_at_one_scale_and_costs_both(tiny, prepared, monkeypatch):
    parts = ("mf-scsn-unshared", "site-weighted-adaptive")
    rows = pd.DataFrame([row for method in parts for row in run_job(Job(method, 0, None), tiny, prepared)])
    bench = Bench(federation="", methods=["site-averaged"], seeds=1)
    monkeypatch.setitem(experts.SCALES, "network", 3.0)  # kept logits are averaged anew when a scale is measured anew
    found = benchmark.chosen_rows(bench, rows)
    assert set(found["method"]) == {"site-averaged"} and len(found) == 3
    network, alone = run_method(tiny, METHODS[parts[0]], 0, prepared), run_alone(parts[1], tiny, 0, prepared)
    for a, b in zip(network, alone, strict=True):
        (row,) = (row for _, row in found.iterrows() if (row["site"], row["subject"]) == (a.site, a.subject))
        both = [(0.5, "network", a.probabilities), (0.5, "linear", b.probabilities)]
        probabilities = experts.averaged(both, a.outputs)
        expected = benchmark.balanced_accuracy(probabilities, a.labels, a.outputs)
        assert row["balanced_accuracy"] == pytest.approx(expected, abs=1e-6)
        outputs, told = benchmark.parsed_logits(row["logits"])
        assert outputs.tolist() == a.outputs.tolist()
        np.testing.assert_allclose(told, experts.centred_logits(probabilities, a.outputs), rtol=2e-3, atol=1e-3)
        assert row["seconds"] == pytest.approx(a.seconds + b.seconds, abs=10)
    spread = benchmark.scales(rows)
    assert spread.index.tolist() == list(parts) and (spread > 0).all()


def test_sites_help_a_linear_decoder_in_the_common_space_and_shuffled_ones_do_not(prepared, tiny):
    """Of the tiny federation's subjects, with two tasks that both sites know."""
    found = run_alone("common-linear", tiny, 0, prepared)
    null = run_alone("common-linear-null", tiny, 0, prepared)
    for row, other in zip(found, null, strict=True):
        assert np.isfinite(row.probabilities).all() and row.probabilities[:, row.outputs].sum(1) == pytest.approx(1)
        assert row.labels.tolist() == other.labels.tolist() and not np.allclose(row.probabilities, other.probabilities)
    again = run_alone("common-linear-null", tiny, 0, prepared)
    np.testing.assert_array_equal(again[0].probabilities, null[0].probabilities)


@pytest.mark.parametrize("text", [RIEMANN, IN_SPACE])
def test_frozen_common_layers_stay_as_they_began_and_the_sites_own_do_not(tmp_path, prepared, monkeypatch, text):
    federation = federation_of(text, tmp_path)
    seen = []
    trained = train_together
    monkeypatch.setattr(plain_loop, "train_together", lambda *a, **k: seen.append(trained(*a, **k)) or seen[-1])
    assert run_method(federation, METHODS["mf-scsn-frozen"], 0, prepared)[0].n_bytes == 0
    start = server_network(federation).common_state()
    for name, network in seen[0][0].items():
        site = next(site for site in federation.site if site.name == name)
        own = site_network(federation, SiteTrials(site, federation.contract, prepared))
        for key, value in start.items():
            torch.testing.assert_close(network.common_state()[key], value, rtol=0, atol=1e-6)
        assert not getattr(network, "pull", 0.0)  # heads that are held would make the control weaker than it is
        heads = [key for key in own.private_state() if key.startswith("heads.")]
        assert not any(torch.equal(network.private_state()[key], own.private_state()[key]) for key in heads)


def test_a_region_keeps_its_electrodes_and_the_headsets_that_have_some(tmp_path, here):
    """What eyes alone give: the motor strip is not seen, neither in training nor in the test."""
    write_bids(tmp_path / "wide", ["01", "02"], ["1", "2"], ["Fp1", "Fp2", "F3", "C3", "C4"])
    write_bids(tmp_path / "narrow", ["01"], ["1", "2"], ["Fz", "C3", "Cz", "C4"])
    site = """
[[site]]
name = "{0}"
[[site.dataset]]
source = "bids:{0}"
tasks = ["left_hand", "right_hand"]
targets = ["01"]
calibration = {{ runs = ["1"] }}
"""
    federation = federation_of(
        f'name = "eyes"\ndata_root = "."\n{site.format("wide")}{site.format("narrow")}', tmp_path
    )
    bench = Bench(federation="", methods=["common-linear-frontal", "common-linear"], seeds=1)
    federation = prepare_bench(bench, federation, tmp_path / "store", lambda *step: None)
    eyes = of_region(federation, tmp_path / "store", "frontal")
    assert [(site.name, site.dataset[0].channels) for site in eyes.site] == [("wide", ["Fp1", "Fp2", "F3"])]
    assert eyes.contract.space == REGIONS["frontal"]
    rows = run_benchmark(bench, federation, tmp_path / "store", tmp_path / "rows.csv", {}, 1)
    assert sorted(zip(rows["method"], rows["site"], strict=True)) == [
        ("common-linear", "narrow"), ("common-linear", "wide"), ("common-linear-frontal", "wide"),
    ]  # fmt: skip
    assert all(set(region) == {mirrored(name) for name in region} for region in REGIONS.values())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-30], "line 3: a number is missing"),
        (lambda text: text.replace("0.5,", "nan,", 1), "line 2: a number is missing or cannot be"),
        (lambda text: text.replace("0.5,", "7.5,", 1), "line 2: a number is missing or cannot be"),
        (lambda text: text + "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p\n", "damaged; put it back"),
    ],
)
def test_damaged_results_are_one_line_and_stay(tmp_path, damage, words):
    results, made_with = tmp_path / "rows.csv", {"folds": 2}
    whole = (
        "method,site,dataset,subject,seed,n_calibration,n_test,balanced_accuracy,seconds,bytes,asked,fold,answers\n"
        "own-adaptive,north,north,1,0,15,30,0.5,0.1,0,-1,0,aBbA\n"
        "own-adaptive,north,north,2,0,15,30,0.6,0.1,0,-1,0,aBbA\n"
    )
    results.write_text(damage(whole))
    results.with_suffix(".json").write_text('{"folds": 2, "trials": "x"}')
    kept = results.read_bytes()
    with pytest.raises(InputError, match=words):
        read_results(results, made_with)
    assert results.read_bytes() == kept
    results.write_text(whole)
    assert len(read_results(results, made_with)) == 2
    results.with_suffix(".json").write_text('{"folds"')
    with pytest.raises(InputError, match="damaged; put it back"):
        read_results(results, made_with)


def test_a_method_with_one_list_of_labels_is_told_in_each_data_sets_own(tiny, prepared):
    """South's own labels are another list than those of all; its rows must be averaged with others' as they are."""
    south = [row for row in run_method(tiny, METHODS["one-message"], 0, prepared) if row.site == "south"]
    plain = [row for row in run_method(tiny, METHODS["mf-scsn"], 0, prepared) if row.site == "south"]
    for ours, theirs in zip(south, plain, strict=True):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.outputs, theirs.outputs)
        assert ours.probabilities.shape == theirs.probabilities.shape
