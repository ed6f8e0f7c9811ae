"""`mfscsn new`: from folders of recordings to a federation's file that trains."""

from collections import Counter

import pytest
from conftest import mfscsn, refused, write_bids, write_edf

from experiments.new import Found
from federation.contract import load_federation


@pytest.fixture
def folders(tmp_path):
    write_bids(tmp_path / "clinic", ["01", "02", "03", "04"], ["1", "2"], ["C3", "Cz", "C4", "FC1"])
    write_bids(tmp_path / "lab", ["a", "b"], ["1"], ["C3", "C4"], names=("feet", "rest"), pause=False)
    return tmp_path


def test_what_it_writes_is_read_and_trains(folders):
    sites = ("--site", "clinic=clinic", "--site", "lab=lab")
    code, out, err = mfscsn("new", "fed.toml", *sites, cwd=folders)
    assert code == 0, err
    assert "clinic: 4 subjects, 4 channels, 125 Hz; tasks left_hand, right_hand; targets 04" in out
    assert "  a target like 01 trains with left_hand 4, right_hand 4, is tested on left_hand 4, right_hand 4" in out
    assert "warning: fewer than 10 trials of a task tell little" in out
    clinic, lab = load_federation(folders / "fed.toml").site
    assert clinic.dataset[0].tasks == ["left_hand", "right_hand"]  # rest between cues is no task
    assert clinic.dataset[0].calibration.runs == ["1"]
    assert lab.dataset[0].tasks == ["feet", "rest"] and lab.dataset[0].targets == ["a", "b"]
    assert lab.dataset[0].calibration.first == 2
    code, out, err = mfscsn("simulate", "fed.toml", "--rounds", "2", "--out", "run", cwd=folders)
    assert code == 0, err
    assert (folders / "run" / "report.html").exists()
    before = (folders / "fed.toml").read_bytes()
    assert "already exists" in refused("new", "fed.toml", *sites, cwd=folders)
    assert (folders / "fed.toml").read_bytes() == before


def found_in(*runs):
    """What a subject shows whose runs hold these cues, in order."""
    cues = [("", str(k), name) for k, names in enumerate(runs) for name in names]
    counts = Counter(name for *_, name in cues)
    return Found("bids:x", ["01"], "01", ["C3"], 125.0, dict(counts), cues, {})


PAIR, FEET = ["left", "right"], ["feet", "hands"]


@pytest.mark.parametrize(
    ("runs", "calibration", "trains"),
    [
        ([12 * PAIR, 12 * PAIR, 12 * PAIR], {"runs": ["0"]}, {"left": 12, "right": 12}),
        ([6 * PAIR, 6 * PAIR, 6 * PAIR, 6 * PAIR], {"runs": ["0", "1"]}, {"left": 12, "right": 12}),
        ([5 * PAIR, 5 * PAIR], {"runs": ["0"]}, {"left": 5, "right": 5}),
        ([30 * PAIR], {"first": 20}, {"left": 10, "right": 10}),
        ([24 * PAIR], {"first": 20}, {"left": 10, "right": 10}),  # a third is 16
        ([6 * PAIR], {"first": 4}, {"left": 2, "right": 2}),
        ([20 * PAIR, 20 * PAIR, 20 * FEET, 20 * FEET], {"runs": ["0", "2"]}, dict.fromkeys(sorted([*PAIR, *FEET]), 20)),
        # Hands and feet come in one run alone, the second
        ([20 * PAIR, 20 * FEET, 20 * PAIR], {"first": 60}, {"feet": 10, "hands": 10, "left": 20, "right": 20}),
    ],
)
def test_the_calibration_holds_enough_of_each_task_where_half_of_the_trials_do(runs, calibration, trains):
    found = found_in(*runs)
    assert found.calibration == calibration and found.split[0] == trains
    assert sum(found.split[1].values()) == sum(map(len, runs)) - sum(trains.values())


def test_what_cannot_be_looked_into_is_named(folders):
    def err(*sites):
        return refused("new", "x.toml", *[word for site in sites for word in ("--site", site)], cwd=folders)

    assert "no such folder" in err("clinic=nowhere")
    assert "--site clinic: expected NAME=FOLDER" in err("clinic")
    assert "'lab' stands there twice" in err("lab=lab", "lab=clinic")
    assert "the folder of site 'lab' too" in err("lab=lab", "clinic=./lab")
    assert "that is a part of a BIDS data set" in err("lab=lab/sub-a")
    assert "expected letters, digits" in err("my lab=lab")
    write_bids(folders / "still", ["01"], ["1"], ["C3"], names=("rest",), pause=False)
    assert "subject '01' has the annotations {'rest': 4}" in err("still=still")
    assert not (folders / "x.toml").exists()


def test_each_site_has_a_pattern_of_its_own(tmp_path):
    for name in ("a/S1R1", "a/S1R2", "b/x_1_y_2", "b/x_1_y_3"):
        write_edf(tmp_path / f"{name}.edf")
    words = ("new", "f.toml", "--site", "a=a", "--site", "b=b", "--pattern", "b=x_{subject}_y_{run}")
    code, out, err = mfscsn(*words, "--pattern", "S{subject}R{run}", cwd=tmp_path)
    assert code == 0 and out.startswith("looks into a\nlooks into b\n"), err
    text = (tmp_path / "f.toml").read_text()
    assert 'pattern = "S{subject}R{run}"' in text and 'pattern = "x_{subject}_y_{run}"' in text
    assert "of fewer than 6 no test can tell a gain from chance" in out and "docs/federation-file.md" in text
    assert "site 'b' has one already" in refused(*words, "--pattern", "b={subject}", cwd=tmp_path)


@pytest.mark.parametrize("rest", ["rest", "Rest", "T0"])
def test_a_pause_between_cues_is_no_task_however_it_is_called(rest):
    found = Found("files:x", ["1"], "1", ["C3"], 160.0, {rest: 30, "T1": 15, "T2": 15}, [], {})
    assert found.tasks == ["T1", "T2"]
    few = Found("files:x", ["1"], "1", ["C3"], 160.0, {rest: 15, "T1": 15, "T2": 15}, [], {})
    assert few.tasks == sorted([rest, "T1", "T2"])  # as often as a task: one of them
