"""The competition's files: read as they are, refused when they are not what they should be."""

import os
import pickle
import shutil

import moabb
import numpy as np
import pytest
from conftest import planted_trials
from moabb.datasets import Beetl2021_A, Beetl2021_B

from data.beetl import (
    COMMON_MONTAGE,
    TARGETS,
    A,
    B,
    BeetlSource,
    check_sums,
    files,
    phase_folder,
    read_labels,
    read_signals,
    write_sums,
)
from data.beetl_simulated import dump
from data.errors import InputError
from data.simulated import MONTAGES
from data.sources import open_source
from data.trials import UNLABELLED

pytestmark = pytest.mark.usefixtures("small_targets")


def replace(path, content: bytes):
    """Put another file in the place of a link."""
    path.unlink()
    path.write_bytes(content)


def test_channels_are_those_of_moabb():
    assert list(A.channels) == Beetl2021_A().ch_names and list(B.channels) == Beetl2021_B().ch_names
    assert "Cz" not in A.channels and len(A.channels) == 63


def test_the_17_common_channels():
    headsets = [A.channels, B.channels, *(MONTAGES[name].split() for name in ("cho64", "eeg64", "bnci22"))]
    assert set(COMMON_MONTAGE.split()) == set.intersection(*map(set, headsets))
    assert len(COMMON_MONTAGE.split()) == 17


def test_submitted_codes_are_the_smaller_of_code_and_2():
    assert A.answer_codes == {"rest": 0, "left_hand": 1, "right_hand": 2, "feet": 2, "other": 2}
    assert B.answer_codes == {"left_hand": 0, "right_hand": 1, "feet": 2, "rest": 2, "other": 2}


def test_files_are_in_the_organisers_order(tmp_path):
    of_a, of_b = files(tmp_path, A, "S2"), files(tmp_path, B, "S4")
    assert [str(f.signals.relative_to(tmp_path)) for f in of_a] == [
        *(f"S2/training/race{k}_padsData.npy" for k in range(1, 6)),
        *(f"S2/testing/race{k}_padsData.npy" for k in range(6, 16)),
    ]
    assert [f.labels.name for f in of_a[:5] if f.labels] == [f"race{k}_padsLabel.npy" for k in range(1, 6)]
    assert [str(f.signals.relative_to(tmp_path)) for f in of_b] == [
        "S4/training/training_s4X.npy",
        "S4/testing/testing_s4X.npy",
    ]
    assert of_b[0].labels == tmp_path / "S4/training/training_s4y.npy"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_recordings_hold_the_trials_as_they_were_written(competition, target):
    signals, codes = planted_trials(target, 1, 3)
    source = open_source(f"beetl:{competition}", {"dataset": target.name})
    assert source.subjects() == list(target.subjects["final"])
    recordings = list(source.recordings(source.subjects()[0]))
    assert [r.run for r in recordings if r.session == "training"] == [
        f"{'race' if target is A else 'block'}{k}" for k in range(1, 6)
    ]
    found = np.concatenate([r.raw.get_data() for r in recordings])
    assert np.allclose(found, signals, rtol=1e-5, atol=1e-12)  # volts, in the organisers' order
    names = [name for r in recordings for name in np.array(list(r.raw.event_id))[r.raw.events[:, 2]]]
    assert names == [target.tasks[code] for code in codes[:-200]] + [UNLABELLED] * 200


def test_the_leaderboard_phase_joins_with_its_labelled_trials_alone(competition):
    source = BeetlSource(competition, "B", leaderboard=True)
    assert source.subjects() == ["S4", "S5", "leaderboard-S3", "leaderboard-S4", "leaderboard-S5"]
    recordings = list(source.recordings("leaderboard-S3"))
    assert {r.session for r in recordings} == {"training"} and sum(len(r.raw) for r in recordings) == 120


def test_moabb_reads_the_same_signals_and_names_a_test_code_wrongly(competition, tmp_path, monkeypatch):
    """The trap: merged code 2 of A, right hand or feet, comes out of MOABB's loader as "right_hand"."""
    shutil.copytree(competition, tmp_path / "MNE-Beetl2021-A-data", copy_function=os.link)
    monkeypatch.setenv("MNE_DATASETS_BEETL_PATH", str(tmp_path))
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")  # do not ask a mirror first
    moabb.set_log_level("ERROR")
    runs = Beetl2021_A().get_data([1])[1]["0"]
    train, test = (runs[name] for name in sorted(runs))
    ours = list(BeetlSource(competition, "A").recordings("S1"))
    assert np.allclose(
        train.get_data()[:63, : 100 * 400],
        np.hstack(np.concatenate([r.raw.get_data() for r in ours if r.session == "training"])),
        atol=1e-12,
    )
    _, codes = planted_trials(A, 1, 3)
    theirs = list(test.annotations.description)
    assert [theirs[k] for k in np.flatnonzero(codes[-200:] == 3)] == ["right_hand"] * 50  # these imagined their feet


def test_a_pickle_with_code_in_it_is_refused(linked):
    class Code:
        def __reduce__(self):
            return os.system, (f"touch {linked / 'ran'}",)

    replace(linked / "finalMI/S2/testing/race7_padsData.npy", pickle.dumps(Code()))
    with pytest.raises(InputError, match=r"S2/testing/race7_padsData\.npy: refused, nothing of it was run"):
        list(BeetlSource(linked, "A").recordings("S2"))
    assert not (linked / "ran").exists()


def test_a_truncated_file_is_refused(linked):
    path = linked / "finalMI/S4/testing/testing_s4X.npy"
    replace(path, path.read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"testing_s4X\.npy: cannot be read as a numpy array .* cut short"):
        list(BeetlSource(linked, "B").recordings("S4"))


def test_a_missing_race_is_named(linked):
    (linked / "finalMI/S3/testing/race11_padsData.npy").unlink()
    source = BeetlSource(linked, "A")
    with pytest.raises(InputError, match=r"S3/testing/race11_padsData\.npy: missing"):
        source.fingerprint("S3")
    with pytest.raises(InputError, match=r"S3/testing/race11_padsData\.npy: missing"):
        list(source.recordings("S3"))
    with pytest.raises(InputError, match="missing, though SHA256SUMS lists it"):
        check_sums(linked)


def test_subjects_swapped_between_a_and_b_are_told_by_their_shape(linked):
    shutil.copy(linked / "finalMI/S1/testing/race6_padsData.npy", linked / "odd")
    replace(linked / "finalMI/S4/testing/testing_s4X.npy", (linked / "odd").read_bytes())
    with pytest.raises(InputError, match=r"expected \(200, 32, 400\) for B \(it has the shape of A: are subjects"):
        list(BeetlSource(linked, "B").recordings("S4"))


def test_subjects_swapped_within_a_are_told_by_their_sums(linked):
    (linked / "finalMI/S1").rename(linked / "finalMI/away")
    (linked / "finalMI/S2").rename(linked / "finalMI/S1")
    (linked / "finalMI/away").rename(linked / "finalMI/S2")
    with pytest.raises(InputError, match=r"S1/testing/race10_padsData\.npy: not .* it is finalMI/S2/testing/race10"):
        check_sums(linked)


def test_b_in_volts_is_refused_unless_told(linked):
    file = files(linked / "finalMI", B, "S5")[1]
    volts = read_signals(file, B)
    file.signals.unlink()
    dump(volts, file.signals)
    with pytest.raises(InputError, match=r"looks like volts, but B is published in microvolts.*--unit B=volts"):
        read_signals(file, B)
    assert np.array_equal(read_signals(file, B, "volts"), volts)
    with pytest.raises(InputError, match="looks like volts, but --unit says microvolts"):
        read_signals(file, B, "microvolts")


def test_nan_another_shape_and_odd_codes_are_named(linked):
    race = files(linked / "finalMI", A, "S1")[0]
    signals = read_signals(race, A)
    signals[4, 7, 100] = np.nan
    race.signals.unlink()
    dump(signals, race.signals)
    with pytest.raises(InputError, match="trial 4 holds NaN or infinite samples in C3"):
        read_signals(race, A)
    dump(signals[:19], race.signals)
    with pytest.raises(InputError, match=r"shape \(19, 63, 400\), expected \(20, 63, 400\)"):
        read_signals(race, A)
    assert race.labels is not None
    for codes, message in (
        (np.full(20, 4), "the code 4 is none of"),
        (np.zeros(19), "one code for each of 20"),
    ):
        race.labels.unlink()
        dump(codes, race.labels)
        with pytest.raises(InputError, match=message):
            read_labels(race, A, 20)
    race.labels.unlink()
    dump(np.full((20, 1), 3.0), race.labels)
    assert read_labels(race, A, 20).tolist() == [3] * 20


def test_a_nested_folder_is_found_and_a_missing_one_named(tmp_path):
    (tmp_path / "finalMI/finalMI").mkdir(parents=True)
    assert phase_folder(tmp_path, "final") == tmp_path / "finalMI/finalMI"
    with pytest.raises(InputError, match="no folder 'leaderboardMI' in it"):
        phase_folder(tmp_path, "leaderboard")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "C"}, "option dataset = 'C': expected one of"),
        ({"dataset": "A", "phase": "finals"}, "did you mean 'final'"),
        ({"dataset": "A", "unit": "uV"}, "option unit = 'uV'"),
        ({"dataset": "A", "race": 3}, "unexpected keyword"),
    ],
)
def test_odd_options_are_named(competition, options, message):
    with pytest.raises(InputError, match=message):
        open_source(f"beetl:{competition}", options)


def test_sums_are_as_sha256sum_writes_them(tmp_path):
    (tmp_path / "finalMI/S1").mkdir(parents=True)
    (tmp_path / "finalMI/S1/a.npy").write_bytes(b"abc")
    assert check_sums(tmp_path) == 0
    write_sums(tmp_path)
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / "SHA256SUMS").read_text() == f"{sha}  finalMI/S1/a.npy\n"
    assert check_sums(tmp_path) == 1
    (tmp_path / "SHA256SUMS").write_bytes(f"{sha} *finalMI/S1/a.npy\r\n\n".encode() + b"\xff\n")
    assert check_sums(tmp_path) == 1
