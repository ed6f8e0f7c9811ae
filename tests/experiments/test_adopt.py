"""A new site around a finished run's common layers: they stay, it trains, and both are scored."""

import csv
from dataclasses import replace

import pytest
import torch
from conftest import LoopGrid, mfscsn, refused, write_bids

from data.errors import InputError
from experiments.adopt import adopting, around, private_alone, train_site
from experiments.prepare import prepare_sites
from federation.common_layers import export_common, read_common
from federation.contract import Site
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site import read_tensors, write_tensors
from federation.site_trials import SiteTrials

DATA = "simulated:laboratory"
WORDS = ("--data", DATA, "--tasks", "left_hand,right_hand", "--subjects", "1,2", "--calibration", "12")


@pytest.fixture
def run(make_run) -> RunFolder:
    run = make_run()
    federate(LoopGrid(run), run)
    return run


def test_adopted_layers_stay_as_they_are_and_the_run_is_like_any_other(run, tmp_path):
    code, out, err = mfscsn("adopt", run.path, *WORDS, "--out", "adopted", cwd=tmp_path)
    assert code == 0, out + err
    assert "mf-scsn minus local-site" in out and "report: adopted/report.html" in out
    adopted = RunFolder(tmp_path / "adopted")
    for name, value in run.load_common(2).items():
        assert torch.equal(adopted.load_common(2)[name], value)
    network = adopted.load_network("here")
    assert network.branches["laboratory"].n_chans > 4  # another headset than any site of the run
    with (tmp_path / "adopted" / "calibration.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["n_calibration"]) for row in rows} == {5, 10, 12}
    assert {(row["subject"], row["method"]) for row in rows} == {
        (s, m) for s in "12" for m in ("mf-scsn", "local-site")
    }
    report = (tmp_path / "adopted" / "report.html").read_text()
    assert ">Calibration</h2>" in report and "adopted from tiny" in report
    before = (tmp_path / "adopted" / "scores.csv").read_bytes()
    assert mfscsn("evaluate", "adopted", cwd=tmp_path)[0] == 0
    assert (tmp_path / "adopted" / "scores.csv").read_bytes() == before
    assert "already exists" in refused("adopt", run.path, *WORDS, "--out", "adopted", cwd=tmp_path)


def test_only_the_separate_layers_are_trained(run, prepared):
    common, site = replace(read_common(run.path), trained_on=frozenset()), run.federation.site[1]
    federation = adopting(common, site)
    trials = SiteTrials(site, federation.contract, prepared)
    network = around(federation, trials, common)
    before = network.private_state()
    for _ in train_site(network, federation, trials, private_alone(federation.settings)):
        pass
    after, kept = network.private_state(), network.common_state()
    assert all(torch.equal(kept[name], value) for name, value in common.layers.items())
    assert all(
        not torch.equal(after[f"heads.of-laboratory.0.{name}"], before[f"heads.of-laboratory.0.{name}"])
        for name in ("weight", "bias")
    )


def test_another_seed_moves_what_is_the_sites_own_and_no_row_of_a_label(make_run, prepared):
    """In the common space a head begins at its labels' rows, which are of the run's seed."""
    run = make_run(extractor="common-space")
    federate(LoopGrid(run), run)
    common, site = replace(read_common(run.path), trained_on=frozenset()), run.federation.site[1]
    heads = []
    for seed in (None, 5):
        federation = adopting(common, site, seed)
        trials = SiteTrials(federation.site[0], federation.contract, prepared)
        network = around(federation, trials, common)
        heads.append(network.head("laboratory").weight.clone())
        for name, value in common.layers.items():
            assert torch.equal(network.common_state()[name], value)
        ways = [log for _, log, _ in train_site(network, federation, trials, private_alone(federation.settings))]
        heads.append(network.head("laboratory").weight.clone())
        assert len(ways) == federation.training.rounds
    assert torch.equal(heads[0], heads[2]) and not torch.equal(heads[1], heads[3])


def test_predict_gives_every_cued_trial_a_row(run, tmp_path):
    for subject in ("3", "7"):  # the same signals, of one whom the site knows and of one whom it does not
        write_bids(tmp_path / "today", [subject], ["1"], ["Fz", "C3", "Cz", "C4", "FC1"], names=("cue",), n=6)
    data = ("--data", "bids:today", "--cues", "cue")
    code, out, err = mfscsn("predict", run.path, *data, "--site", "north", cwd=tmp_path)
    assert code == 0, out + err
    assert "subject 3: 6 trials, aligned by its own training trials" in out
    assert "subject 7: 6 trials, aligned by these trials themselves, all at once: it is new" in out
    with (tmp_path / "probabilities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "subject",
        "session",
        "run",
        "trial",
        "onset",
        "cue",
        "p_right_hand",
        "p_rest",
        "predicted",
    ]
    assert [row["subject"] for row in rows] == ["3"] * 6 + ["7"] * 6
    assert [row["p_rest"] for row in rows[:6]] != [row["p_rest"] for row in rows[6:]]  # aligned by other trials
    for row in rows:
        p = float(row["p_right_hand"]), float(row["p_rest"])
        assert sum(p) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == ("right_hand" if p[0] >= p[1] else "rest")
    assert "probabilities.csv: already exists" in refused("predict", run.path, *data, "--site", "north", cwd=tmp_path)
    data = (*data, "--out", "other.csv")
    assert "has the sites north, south; say whose network with --site" in refused(
        "predict", run.path, *data, cwd=tmp_path
    )
    north = ("predict", run.path, "--site", "north", "--out", "other.csv", "--cues", "cue")
    assert "no trial at the cues ['wink']" in refused(*north[:-1], "wink", *data[:2], cwd=tmp_path)
    err = refused(*north, "--data", "bid:today", cwd=tmp_path)
    assert "bid:today: expected one of" in err and "did you mean 'bids'" in err
    write_bids(tmp_path / "two", ["7"], ["1"], ["C3", "Cz", "C4", "FC1"], names=("go", "stop"), n=3)
    for cues in (("--cues", "go", "--cues", "stop"), ("--cues", "go,stop")):
        words = ("predict", run.path, "--site", "north", "--data", "bids:two", *cues, "--out", f"{len(cues)}.csv")
        assert mfscsn(*words, cwd=tmp_path)[0] == 0
    assert (tmp_path / "4.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    with (tmp_path / "4.csv").open() as file:
        assert [row["cue"] for row in csv.DictReader(file)] == ["go", "stop"] * 3
    write_bids(tmp_path / "other", ["1"], ["1"], ["C3", "Cz", "C4"], names=("cue",), n=6)
    seen = ("predict", run.path, "--site", "north", "--cues", "cue", "--data", "today", "--out", "seen.csv")
    assert mfscsn(*seen, cwd=tmp_path)[0] == 0  # what kind of folder it is, is seen
    err = refused(*north, "--data", "bids:other", cwd=tmp_path)
    assert "has no channel FC1, which site 'north' was trained on; `mfscsn adopt`" in err


def test_an_export_is_the_run_s_layers_with_a_card(run, tmp_path):
    code, out, _ = mfscsn("export", run.path, "--to", "card", cwd=tmp_path)
    assert code == 0 and "card/common.safetensors" in out
    found = read_common(tmp_path / "card")
    assert found.contract == run.federation.contract and found.training == run.federation.training
    assert all(torch.equal(found.layers[name], value) for name, value in run.load_common(2).items())
    _, about = read_tensors(tmp_path / "card" / "common.safetensors", metadata_only=True)
    card = (tmp_path / "card" / "README.md").read_text()
    told = card + "".join(about.values())
    assert "tiny" in card and "2 rounds" in card and "mfscsn adopt" in card
    for private in ("north", "south", "right_hand", "C3", "simulated:", str(tmp_path)):
        assert private not in told
    assert "already exists" in refused("export", run.path, "--to", "card", cwd=tmp_path)


def test_what_cannot_be_adopted_is_refused(run, make_run, tmp_path):
    young = make_run("young")
    assert "ended at round 0 of 2" in refused("adopt", young.path, *WORDS, cwd=tmp_path)
    assert "ended at round 0 of 2" in refused("export", young.path, "--to", "x", cwd=tmp_path)
    assert "no run here" in refused("adopt", "nowhere", *WORDS, cwd=tmp_path)
    write_tensors(tmp_path / "other.safetensors", run.load_common(2), {})
    assert "no exported common layers" in refused("adopt", "other.safetensors", *WORDS, cwd=tmp_path)
    export_common(run, tmp_path / "card")
    (tmp_path / "card" / "common.safetensors").write_bytes(b"no tensors")
    assert "cannot be read as safetensors" in refused("adopt", "card", *WORDS, cwd=tmp_path)
    err = refused("adopt", run.path, "--data", DATA, "--tasks", "left_hnd,right_hand", "--subjects", "1", cwd=tmp_path)
    assert "no such task 'left_hnd'; did you mean 'left_hand'" in err
    err = refused("adopt", run.path, "--data", DATA, "--tasks", "left_hand", "--subjects", "1", cwd=tmp_path)
    assert "has the one class ['left_hand']; at least two are needed to train" in err
    assert not (tmp_path / "runs").exists()
    named = RunFolder.create(tmp_path / "named", prepare_sites(run.federation, run.store), run.store, 1)
    named.keep_common(2, run.load_common(2))
    common = read_common(named.path)
    known = Site(name="here", dataset=named.federation.site[1].dataset)
    with pytest.raises(InputError, match="subject '1' trained the common layers of tiny: its test trials would not"):
        adopting(common, known)
    shared = common.contract.model_copy(update={"share": "all-but-head"})
    with pytest.raises(InputError, match="only with 'middle' can another headset"):
        adopting(replace(common, contract=shared), Site(name="here"))
