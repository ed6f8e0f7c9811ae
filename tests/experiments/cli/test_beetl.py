"""BEETL's commands as a user types them: what cannot be used is one line and exit code 2."""

import json
import os
import pickle
import shutil
import zipfile

import pytest
from conftest import SHARED, mfscsn, refused

from data import beetl_answer
from data.beetl import A, files, read_labels
from data.beetl_simulated import dump
from data.errors import InputError
from experiments.beetl.check import check_competition, fetch_competition

pytestmark = pytest.mark.usefixtures("small_targets")
needs_shared = pytest.mark.skipif(not (SHARED / "beetl").is_dir(), reason="../shared/beetl is not here")


@needs_shared
def test_score_prints_what_the_organisers_would(tmp_path):
    words = (SHARED / "beetl/final_pred_MI_label_example.txt", SHARED / "beetl/final_MI_label.txt")
    code, out, _ = mfscsn("score", *words, cwd=tmp_path)
    assert code == 0
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["total"][1] == "41.53" and lines["A"][1] == "35.00" and lines["B"][1] == "51.33"
    assert "left_hand 73" in out and "other 8" in out and all(f"S{k}" in lines for k in range(1, 6))
    assert all(len(line) <= 88 for line in out.splitlines()[2:]) and "…" not in out
    assert "(the organisers')" in out
    code, out, _ = mfscsn("score", *words, "--json", cwd=tmp_path)
    found = json.loads(out)
    assert [round(found[name], 2) for name in ("total", "A", "B")] == [41.53, 35.0, 51.33]
    assert list(found["subjects"]) == [f"S{k}" for k in range(1, 6)] and found["organisers_labels"]
    assert found["subjects"]["S2"]["classes"]["other"] == {"code": 2, "n_trials": 100, "percent": 13.0}
    assert found["classes"]["code 1"]["n_trials"] == 250 and found["gain"] is None
    assert found["interval"][0] < 41.53 < found["interval"][1]


def test_two_answers_are_compared_trial_by_trial(tmp_path):
    truth = [0, 1, 2, 2] * 250
    (tmp_path / "labels.txt").write_text("".join(f"{c}\n" for c in truth))
    (tmp_path / "best.txt").write_text("".join(f"{c}\n" for c in truth))
    (tmp_path / "zeros.txt").write_text("0\n" * 1000)
    code, out, _ = mfscsn("score", "best.txt", "labels.txt", "--against", "zeros.txt", cwd=tmp_path)
    assert code == 0 and "minus zeros.txt: +66.67 points, 95 % interval +66.7 to +66.7 (paired" in out
    assert "not the organisers'" in out
    (tmp_path / "a[/b]").mkdir(parents=True)
    (tmp_path / "best.txt").rename(tmp_path / "a[/b]" / "best.txt")
    assert "answer: a[/b]/best.txt" in mfscsn("score", "a[/b]/best.txt", "labels.txt", cwd=tmp_path)[1]


def test_score_refuses_what_is_no_answer(tmp_path):
    (tmp_path / "good.txt").write_text("0\n1\n2\n2\n" * 250)
    (tmp_path / "short.txt").write_text("0\n" * 999)
    (tmp_path / "odd.txt").write_text("0\n" * 999 + "3\n")
    assert "short.txt: 999 codes, expected 1000" in refused("score", "short.txt", "good.txt", cwd=tmp_path)
    assert "odd.txt: code 1000 is '3', expected 0, 1 or 2" in refused("score", "good.txt", "odd.txt", cwd=tmp_path)
    assert "none.txt: no such file" in refused("score", "none.txt", "good.txt", cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "answer.zip", "w") as archive:
        archive.write(tmp_path / "good.txt", "answer.txt")
    assert mfscsn("score", "answer.zip", "good.txt", cwd=tmp_path)[0] == 0


def test_check_shows_shapes_scales_and_what_the_codes_look_like(competition, tmp_path):
    code, out, _ = mfscsn("beetl", "check", competition, cwd=tmp_path)
    assert code == 0 and "…" not in out
    assert "all 115 files" in out or "all 116 files" in out
    assert "volts" in out and "microvolts" in out and "25  25  25  25" in out and "30  30  30  30" in out
    assert "most like the left hand: code 1 (published as left_hand)" in out
    assert "most like the right hand: code 2 (published as right_hand)" in out


def test_check_tells_when_the_codes_mean_something_else(linked):
    """Codes 1 and 3 exchanged, as another meaning would have it: mu power points at 3 then."""
    (linked / "SHA256SUMS").unlink()
    for subject in A.subjects["final"]:
        for file in files(linked / "finalMI", A, subject)[:5]:
            codes = read_labels(file, A, 20)
            assert file.labels is not None
            file.labels.unlink()
            dump(codes.choose([0, 3, 2, 1]), file.labels)
    (linked / "final_MI_label.txt").unlink()
    found = check_competition(linked, "final", {})
    assert max(found.codes, key=lambda c: c.lateral).code == 3 and found.n_labels == 0 and found.n_sums == 0
    assert min(found.codes, key=lambda c: c.lateral).code == 2


def _spoil_with_code(root):
    path = root / "finalMI/S1/training/race3_padsData.npy"
    path.unlink()
    path.write_bytes(pickle.dumps(os.system))


def _spoil_by_cutting(root):
    path = root / "finalMI/S5/training/training_s5X.npy"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1000])


def _spoil_a_race(root):
    (root / "finalMI/S2/testing/race15_padsData.npy").unlink()


def _spoil_by_swapping_within_a(root):
    for name in ("S1", "S2"):
        (root / f"finalMI/{name}").rename(root / f"finalMI/{name}-away")
    (root / "finalMI/S1-away").rename(root / "finalMI/S2")
    (root / "finalMI/S2-away").rename(root / "finalMI/S1")


def _spoil_by_swapping_a_and_b(root):
    path = root / "finalMI/S4/testing/testing_s4X.npy"
    path.unlink()
    shutil.copy(root / "finalMI/S3/testing/race6_padsData.npy", path)


def _spoil_the_scale(root):
    import numpy as np

    from data.pickled import read_array

    path = root / "finalMI/S4/testing/testing_s4X.npy"
    signals = read_array(path) * np.float32(1e-6)
    path.unlink()
    dump(signals, path)


def _spoil_the_labels(root):
    path = root / "final_MI_label.txt"
    path.unlink()
    path.write_text("0\n1\n2\n2\n" * 250)


@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil_with_code, "race3_padsData.npy: refused, nothing of it was run"),
        (_spoil_by_cutting, "training_s5X.npy: cannot be read as a numpy array"),
        (_spoil_a_race, "S2/testing/race15_padsData.npy: missing"),
        (_spoil_by_swapping_a_and_b, "shape (20, 63, 400), expected (200, 32, 400) for B"),
        (_spoil_the_scale, "looks like volts, but B is published in microvolts"),
        (_spoil_the_labels, "final_MI_label.txt: neither the organisers' labels nor"),
        (_spoil_by_swapping_within_a, None),  # equal shapes: only sums can tell
    ],
)
def test_spoiled_files_are_refused_with_one_line(linked, spoil, message, sums):
    spoil(linked)
    if not sums:
        (linked / "SHA256SUMS").unlink()
        if spoil is not _spoil_the_labels:
            (linked / "final_MI_label.txt").unlink()  # nobody knows planted labels without the sums
        if message is None:
            assert check_competition(linked, "final", {}).n_sums == 0
            return
    with pytest.raises(InputError) as error:
        check_competition(linked, "final", {})
    text = str(error.value)
    told_by_sums = sums and spoil is not _spoil_the_labels
    assert (message if not told_by_sums else "SHA256SUMS") in text and "\n" not in text
    if sums and spoil is _spoil_by_swapping_within_a:
        assert "it is finalMI/S2/" in text


def test_spoiled_files_are_refused_by_the_commands(linked, tmp_path):
    _spoil_by_swapping_within_a(linked)
    assert "are files swapped?" in refused("beetl", "check", linked, cwd=tmp_path)
    run = ("beetl", "run", "--data", linked, "--sources", "simulated", "--method", "baseline", "--out", "run")
    assert "are files swapped?" in refused(*run, cwd=tmp_path)
    (linked / "SHA256SUMS").unlink()
    (linked / "final_MI_label.txt").unlink()
    _spoil_the_scale(linked)
    err = refused(*run, cwd=tmp_path)
    assert "site 'B': " in err and "--unit B=volts" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "."), "no folder 'finalMI' in it"),
        (("run",), "give --data DIR"),
        (("run", "--data", "."), "no folder 'finalMI' in it"),
        (("run", "--data", ".", "--unit", "B=kilovolts"), "--unit B=kilovolts: expected A or B"),
        (("run", "--data", ".", "--phase", "finale"), "finale"),
        (("run", "--data", ".", "--settings", "none.toml"), "none.toml: no such file"),
        (("run", "--resume", "nothing"), "no run here"),
        (("tune", "--data", ".", "--try", "lr=3"), "--try lr=3: expected contract.KEY"),
        (("tune",), "give --data DIR"),
        (("simulate", "."), "already exists"),
        (
            ("run", "--resume", "x", "--seed", "3"),
            "--resume goes on with what the run was begun with; leave out --seed",
        ),
        (("tune", "--data", ".", "--rounds", "2", "--try", "training.rounds=3"), "say two things"),
        (("run", "--data", ".", "--settings", "mine.txt"), "mine.txt: cannot be read as TOML"),
        (("run", "--data", ".", "--method", "baseline", "--transductive"), "fits nothing"),
        (("run", "--data", ".", "--out", "mine.txt/run"), "cannot be made"),
    ],
)
def test_other_mistakes(tmp_path, words, message):
    (tmp_path / "mine.txt").write_text("mine")
    assert message in refused("beetl", *words, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "prepared"] == ["mine.txt"]


@pytest.fixture
def fetched(linked, tmp_path, monkeypatch):
    """The competition where MOABB would have put it: it downloads nothing then."""
    (linked / "SHA256SUMS").unlink()
    monkeypatch.setenv("MNE_DATASETS_BEETL_PATH", str(tmp_path / "moabb"))
    at = tmp_path / "moabb" / "MNE-Beetl2021-A-data"
    at.parent.mkdir()
    return linked.rename(at)


def test_fetch_gives_the_folder_and_notes_the_sums(fetched, monkeypatch):
    monkeypatch.setattr(beetl_answer, "are_organisers", lambda codes: True)
    assert fetch_competition("final") == fetched
    assert len((fetched / "SHA256SUMS").read_text().splitlines()) == 116


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil_a_race, "race15_padsData.npy: missing"),
        (_spoil_by_cutting, "training_s5X.npy: cannot be read"),
        (_spoil_the_labels, "neither the organisers' labels"),
        (lambda root: shutil.rmtree(root / "leaderboardMI"), "no folder 'leaderboardMI' in it"),
    ],
)
def test_fetch_vouches_for_nothing_that_is_not_whole(fetched, monkeypatch, spoil, message):
    if spoil is not _spoil_the_labels:
        monkeypatch.setattr(beetl_answer, "are_organisers", lambda codes: True)
    spoil(fetched)
    with pytest.raises(InputError, match=message) as error:
        fetch_competition("final")
    assert "or remove all of" in str(error.value) and not (fetched / "SHA256SUMS").exists()


def test_a_fetch_that_fails_says_what_to_do(tmp_path, monkeypatch):
    import moabb.datasets.download

    def fail(article):
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(moabb.datasets.download, "fs_get_file_list", fail)
    with pytest.raises(InputError, match="cannot fetch it .no route to host.; fetch the figshare articles") as error:
        fetch_competition("final", tmp_path)
    assert "\n" not in str(error.value)


def test_help_shows_words_in_brackets(tmp_path):
    out = mfscsn("beetl", "run", "--help", cwd=tmp_path)[1]
    assert "[contract]" in out and "[default:" in out
