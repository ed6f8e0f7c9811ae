"""Reports: what they compute, what they warn of, and that a page stands alone."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LoopGrid, mfscsn, refused

from data.store import Store
from experiments.cli.show import harm_lines
from experiments.evaluate import METHODS, evaluate
from experiments.references import reference_jobs, train_references
from experiments.report.page import Section, TableOf, write_page
from experiments.report.run import report, warnings
from experiments.report.scores import ScoreDraws
from federation.run_folder import RunFolder
from federation.server_app import federate
from mfscsn.branch import Branch
from mfscsn.network import Architecture, SeparateCommonSeparate
from mfscsn.patterns import filter_patterns, frequencies, haufe, label_patterns, log_power

SFREQ = 128.0


def finished(run: RunFolder) -> RunFolder:
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    evaluate(run)
    return run


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.addresses, self.headings, self.text = [], [], text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


def test_the_pattern_of_a_known_mixture():
    rng = np.random.default_rng(0)
    s = rng.standard_normal((5000, 1)) * 3
    mixing = np.array([[2.0, -1.0, 0.0]])
    noise = rng.standard_normal((5000, 3))
    # x = s * a + noise: Cov(x, s) / Var(s) is a; scaled to one deviation of s, a times 3
    assert np.allclose(haufe(s * mixing + noise, s), 3 * mixing, atol=0.15)
    assert (haufe(noise, np.zeros((5000, 1))) == 0).all()


def test_log_power_of_a_sine():
    times = np.arange(384) / SFREQ
    waves = np.stack(
        [np.sin(2 * np.pi * 10 * times), 10 * np.sin(2 * np.pi * 10 * times), np.sin(2 * np.pi * 20 * times)]
    )
    power = log_power(waves[None], SFREQ, (8.0, 13.0))[0]
    assert power[1] - power[0] == pytest.approx(20.0, abs=1e-6) and power[0] - power[2] > 30


class PowerOfThirdChannel(torch.nn.Module):
    """Stands for a network whose first output follows the power of one channel."""

    def forward(self, x, branch):
        power = 10 * torch.log10(x[:, 2].square().mean(dim=1))
        return torch.stack([power, -power], dim=1)


def test_label_patterns_show_the_channel_that_a_network_follows():
    rng = np.random.default_rng(1)
    gains = rng.uniform(0.5, 2.0, size=(120, 4, 1))
    times = np.arange(256) / SFREQ
    signals = gains * np.sin(2 * np.pi * 10 * times + rng.uniform(0, 6, size=(120, 4, 1)))
    signals[60:] *= 50  # another subject's amplifier: taken out
    inputs = np.concatenate([signals[:60], signals[60:] / 50]).astype(np.float32)
    found = label_patterns(PowerOfThirdChannel(), "a", inputs, [signals[:60], signals[60:]], SFREQ)
    mu = found[:, 0]
    assert found.shape == (2, 2, 4) and np.argmax(mu[0]) == 2 and np.argmin(mu[1]) == 2
    assert mu[0, 2] > 3 * np.abs(np.delete(mu[0], 2)).max()


def test_filter_patterns_show_where_and_at_what_rate_a_filter_looks():
    network = SeparateCommonSeparate(Architecture(256, SFREQ, "shallow"), {"a": Branch(4, 2)}, seed=0)
    filters = network.extractors["of-a"].filters
    rng = np.random.default_rng(2)
    times = np.arange(256) / SFREQ
    signals = 0.1 * rng.standard_normal((30, 4, 256))
    signals[:, 1] += rng.uniform(1, 3, (30, 1)) * np.sin(2 * np.pi * 12 * times + rng.uniform(0, 6, (30, 1)))
    with torch.no_grad():
        filters.spatial.zero_()
        filters.spatial[7, 7, 1] = 1.0  # one filter that looks at the second channel alone
        filters.temporal[7] = torch.cos(2 * torch.pi * 12 * torch.arange(filters.temporal.shape[1]) / SFREQ)
    found = filter_patterns(network, "a", signals.astype(np.float32), [signals], SFREQ, 40.0, n_filters=1)
    assert found[0].number == 7 and np.argmax(np.abs(found[0].pattern)) == 1
    assert abs(frequencies(SFREQ, 40.0)[np.argmax(found[0].response)] - 12) <= 1.5
    riemann = SeparateCommonSeparate(Architecture(256, SFREQ, "riemann"), {"a": Branch(4, 2)})
    assert filter_patterns(riemann, "a", signals, [signals], SFREQ, 40.0) == []


def predictions(right: dict[str, list[int]], labels: list[str]) -> pd.DataFrame:
    other = {"left": "right", "right": "left"}
    rows = [
        ("north", "set", "1", method, 0, k, label, label if hit else other[label])
        for method, hits in right.items()
        for k, (label, hit) in enumerate(zip(labels, hits, strict=True))
    ]
    return pd.DataFrame(rows, columns=["site", "dataset", "subject", "method", "seed", "trial", "label", "predicted"])


def test_scores_and_their_intervals_by_hand():
    labels = ["left"] * 30 + ["right"] * 10
    own, local, ours = [1] * 40, [1] * 30 + [0] * 10, [1] * 15 + [0] * 15 + [1] * 5 + [0] * 5
    draws = ScoreDraws(predictions(dict(zip(METHODS, (own, local, ours), strict=True)), labels))
    key = [("north", "set", "1")]
    assert str(draws.of(key, METHODS[0])) == "100.0 (100.0 to 100.0)"
    assert str(draws.of(key, METHODS[1])) == "50.0 (50.0 to 50.0)"  # recalls 1 and 0: no draw changes that
    found = draws.of(key, METHODS[2])
    # Recalls of 15/30 and 5/10: deviation sqrt(.25/30 + .25/10) / 2 = 9.1 points
    assert found.mean == 50 and found.low == pytest.approx(50 - 1.96 * 9.1, abs=4)
    assert draws.of(key, METHODS[2], METHODS[0]).high < 0 and draws.chance(key) == 50


def test_a_report_stands_alone_and_has_every_part(make_run):
    run = finished(make_run())
    page = Page(report(run).read_text())
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "http" not in re.sub(r"data:[^\"]*", "", page.text).replace("http-equiv", "")
    for title in ("Summary", "Sites", "Scores", "Rounds", "Confusion", "Patterns", "Cost", "Configuration"):
        assert f">{title}</h2>" in page.text
    assert len(page.text) < 10e6 and "own-calibration" in page.text and "simulated:clinic" in page.text
    drawn = {path.stem for path in (run.path / "figures").glob("*.svg")}
    assert drawn == {path.stem for path in (run.path / "figures").glob("*.png")}
    assert {"gains", "rounds-loss", "rounds-distance", "confusion-north-clinic", "patterns-north-clinic"} <= drawn
    assert "filters-north-clinic" in drawn and "filters-south-laboratory" not in drawn  # three electrodes make no map
    assert "too few electrodes" in page.text


def test_predictions_give_the_scores(make_run):
    run = finished(make_run())
    rows = pd.read_csv(run.path / "predictions.csv")
    scores = pd.read_csv(run.path / "scores.csv").set_index(["site", "subject", "method"])["balanced_accuracy"]
    for key, of_one in rows.groupby(["site", "subject", "method"]):
        recalls = (of_one["label"] == of_one["predicted"]).groupby(of_one["label"]).mean()
        assert scores[key] == pytest.approx(recalls.mean())
        assert set(of_one["label"]) <= set(run.federation.site[key[0] == "south"].dataset[0].task_map)
    assert len(rows) == sum(s.n_test for s in evaluate(run))


def test_a_run_that_was_stopped_and_one_without_recordings_have_a_report(make_run, tmp_path):
    run = make_run()
    assert "stands at round 0 of 2" in report(run).read_text()
    federate(LoopGrid(run), run)
    text = report(run).read_text()
    assert "There are no scores here" in text and "Patterns</h2>" in text
    moved = json.loads((run.path / "environment.json").read_text()) | {"store": str(tmp_path / "gone")}
    (run.path / "environment.json").write_text(json.dumps(moved))
    text = report(RunFolder(run.path)).read_text()
    assert "Prepared trials cannot be read any more" in text and "Rounds</h2>" in text
    assert "Not for site north: " in text


def test_a_site_that_loses_is_told_in_the_terminal_and_one_that_does_not_is_not(make_run, capsys):
    run = make_run()
    labels = ["left", "right"] * 30
    for ours, told in (([1, 0] * 30, True), ([1, 1, 1, 0] * 15, True), ([1] * 58 + [0] * 2, False)):
        predictions(dict(zip(METHODS, ([1] * 60, [1] * 60, ours), strict=True)), labels).to_csv(
            run.path / "predictions.csv", index=False
        )
        harm_lines(run)
        said = capsys.readouterr().out
        assert ("site north: the federated model does worse than the site alone" in said) == told
        assert (f"{run.path.name} --site north --own" in said) == told


def test_warnings_name_the_site_the_subject_and_the_recording(make_run, copied_store):
    run = make_run(store=copied_store)
    federate(LoopGrid(run), run)
    site = run.federation.site[0]
    folder = site.dataset[0].recipe(run.federation.contract).folder(copied_store)
    document = json.loads((folder / "manifest.json").read_text())
    usual = Store(folder).cue_intervals("1")
    assert usual and max(usual.values()) / min(usual.values()) < 1.1
    document["subjects"]["1"]["cue_intervals"] = {"0/0": 6.6, "0/1": 6.6, "0/2": 5.8}
    (folder / "manifest.json").write_text(json.dumps(document))
    (run.path / "history.csv").write_text((run.path / "history.csv").read_text() + "2,south,was not connected,,,,\n")
    labels = ["left", "right"] * 30
    rows = predictions(dict(zip(METHODS, ([1, 0] * 30, [1] * 60, [1, 0] * 30), strict=True)), labels)
    found = warnings(run, ScoreDraws(rows))
    assert "Round 2: site south was left out, it was not connected." in found
    assert "Site north is not told from chance: 50.0 (50.0 to 50.0) where guessing gives 50.0." in found
    assert any(
        line.startswith("Site north loses by sharing more than its test trials explain, with this seed: -50.0")
        for line in found
    )
    (line,) = [line for line in found if "sampling rate" in line]
    assert "subject 1" in line and "0/2 (5.80 s)" in line and "0/1" not in line


def test_what_is_secret_or_tells_of_this_machine_stays_out_of_the_page(make_run, tmp_path):
    run = make_run(north="secret_seed = 4611686018427387")
    site = run.federation.site[0]
    moved = site.dataset[0].model_copy(update={"source": f"bids:{tmp_path}/hospital/recordings"})
    named = run.federation.model_copy(
        update={
            "site": [site.model_copy(update={"dataset": [moved]}), run.federation.site[1]],
            "data_root": str(tmp_path),
        }
    )
    run = RunFolder.create(tmp_path / "named", named, tmp_path / "store", 1)
    assert "4611686018427387" in (run.path / "federation.toml").read_text()
    text = report(run).read_text()
    assert "4611686018427387" not in text and str(tmp_path) not in text and "hospital" not in text
    assert "bids:.../recordings" in text


def test_a_subject_has_gained_or_lost_only_where_its_interval_says_so(make_run):
    run = finished(make_run())
    labels = ["left", "right"] * 10
    ahead = {"own-calibration": [1, 0] * 10, "local-site": [0] * 20, "mf-scsn": [1] * 20}
    near = {"own-calibration": [1, 0] * 10, "local-site": [1] * 11 + [0] * 9, "mf-scsn": [1] * 12 + [0] * 8}
    behind = {**ahead, "local-site": [1] * 20, "mf-scsn": [0] * 20}
    tables = [
        predictions(right, labels).assign(subject=subject)
        for subject, right in (("1", ahead), ("2", near), ("3", behind))
    ]
    pd.concat(tables).to_csv(run.path / "predictions.csv", index=False)
    text = report(run).read_text()
    assert "1 gained (north 1), 1 lost (north 3); the intervals of the other 1 span zero" in text


def test_one_site_alone_is_not_told_of_sharing(make_run, tmp_path):
    from conftest import federation_of, tiny_toml

    text = tiny_toml().replace('name = "tiny"', 'name = "tiny-adopted"')  # a name says nothing of what a run is
    alone = federation_of(text[: text.index('[[site]]\nname = "south"')], tmp_path)
    run = RunFolder.create(tmp_path / "alone", alone, tmp_path / "store", 1)
    labels = ["left", "right"] * 30
    rows = predictions(dict(zip(METHODS, ([1, 0] * 30, [1] * 60, [1, 0] * 30), strict=True)), labels)
    rows.to_csv(run.path / "predictions.csv", index=False)
    assert ScoreDraws(rows).n_test == {("north", "set", "1"): 60}
    assert not any("sharing" in line for line in warnings(run, ScoreDraws(rows)))
    assert "nothing is shared with anybody" in report(run).read_text()


@pytest.mark.parametrize("name", ["predictions.csv", "history.csv", "timing.csv", "calibration.csv"])
def test_a_damaged_table_is_named(make_run, tmp_path, name):
    run = make_run()
    federate(LoopGrid(run), run)
    (run.path / name).write_text('site,round\nnorth,"1\n')
    assert f"{name}: damaged" in refused("report", run.path, cwd=tmp_path)


def test_names_cannot_write_into_the_page(tmp_path):
    table = TableOf([("a", "")], [["<script>alert(1)</script>"]])
    write_page(tmp_path / "p.html", "<b>", "", [Section("One", ["`<i>`"], [table])])
    text = (tmp_path / "p.html").read_text()
    assert "<script>" not in text and "<code>&lt;i&gt;</code>" in text and "&lt;b&gt;" in text


def test_the_command(make_run, tmp_path, repository):
    run = finished(make_run())
    code, out, _ = mfscsn("report", run.path, cwd=tmp_path)
    assert code == 0 and out.strip() == "report: run/report.html"
    assert "no run here" in refused("report", "nowhere", cwd=tmp_path)
    bench = repository / "experiments" / "benchmark" / "openmi.toml"
    assert "no results yet" in refused("report", bench, "--results", tmp_path / "none.csv", cwd=tmp_path)


def test_a_benchmark_has_a_report(tmp_path, repository):
    from experiments.benchmark.report import report_benchmark
    from experiments.benchmark.run import chosen_rows, load_bench, read_results

    bench = repository / "experiments" / "benchmark" / "openmi.toml"
    plan, _, made_with = load_bench(bench)
    rows = read_results(
        repository / "experiments" / "benchmark" / "results" / "openmi.csv", made_with | {"shuffled_labels": None}
    )
    rows = rows[rows["method"].isin(["fedavg", "own-recentred", "mf-scsn", "mf-scsn-unshared"])]
    page = Page(report_benchmark(chosen_rows(plan, rows), tmp_path / "openmi.csv", "openmi").read_text())
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    for word in ("mf-scsn-unshared", "joining, a subject at a time", "mf-scsn minus mf-scsn-unshared"):
        assert word in page.text


def test_load_network_gives_the_module_of_a_site(make_run):
    run = make_run()
    federate(LoopGrid(run), run)
    network = run.load_network("south")
    assert (
        network.branches == {"laboratory": Branch(3, 3, ("left_hand", "right_hand", "rest"))}
        and network.architecture.sfreq == 128.0
    )
    x = torch.zeros(5, 3, network.architecture.n_times)
    assert network(x, "laboratory").shape == (5, 3)
    with pytest.raises(ValueError, match="no such site 'sout'; did you mean 'south'"):
        run.load_network("sout")


def test_history_says_how_far_sites_end_from_the_average(make_run):
    run = make_run()
    grid = LoopGrid(run)
    federate(grid, run)
    rows = {row["site"]: row for row in run.history() if row["round"] == "1"}
    average = run.load_common(1)
    sent = {r.content["site"]["name"]: r.content["common"].to_torch_state_dict() for r in grid.replies[:2]}
    norm = sum(float(v.double().square().sum()) for v in average.values()) ** 0.5
    for site, layers in sent.items():
        apart = sum(float((layers[k] - average[k]).double().square().sum()) for k in average) ** 0.5
        assert float(rows[site]["distance"]) == pytest.approx(apart / norm, rel=1e-4)
