import errno
import json

import mne
import numpy as np
import pytest

from data.errors import InputError
from data.files import replaced
from data.preprocessing import Preprocessing, Recording
from data.store import MANIFEST, Recipe, Store, file_of, prepare

P = Preprocessing(sfreq=100.0, window=(0.0, 1.0), band=(4.0, 38.0))


def recipe(**changes) -> Recipe:
    values = {"source": "test:x", "options": {}, "tasks": {"left": "left_hand"}, "channels": None, "preprocessing": P}
    return Recipe(**{**values, **changes})


class FakeSource:
    def __init__(self):
        self.marks = {"1": "a", "2": "a"}
        self.read = []
        self.channels = {"1": ["C3", "C4"], "2": ["C3", "C4"]}

    def annotations(self):
        return set()

    def subjects(self):
        return sorted(self.marks)

    def fingerprint(self, subject):
        return self.marks[subject]

    def recordings(self, subject):
        self.read.append(subject)
        rng = np.random.default_rng(int(subject))
        info = mne.create_info(self.channels[subject], 100.0, "eeg")
        raw = mne.io.RawArray(1e-5 * rng.normal(size=(len(self.channels[subject]), 2000)), info, verbose="ERROR")
        raw.set_annotations(mne.Annotations([3.0, 6.0, 9.0], 1.0, ["left", "right", "left"]))
        yield Recording(raw, "0", "0", f"subject {subject}")


def fill(source, root, subjects=("1", "2"), **changes):
    return prepare(recipe(**changes), root, source, list(subjects))


def test_written_and_read_back(tmp_path):
    folder = fill(FakeSource(), tmp_path)
    store = Store(folder)
    trials = store.trials("2")
    assert store.subjects() == ["1", "2"] and isinstance(trials.signals, np.memmap)
    assert trials.signals.shape == (2, 2, 100) and trials.labels.tolist() == ["left_hand"] * 2
    assert not trials.signals.flags.writeable


def test_prepared_again_only_what_changed(tmp_path):
    source = FakeSource()
    fill(source, tmp_path)
    fill(source, tmp_path)
    assert source.read == ["1", "2"]
    source.marks["2"] = "b"
    fill(source, tmp_path)
    assert source.read == ["1", "2", "2"]


def test_another_recipe_is_another_store(tmp_path):
    source = FakeSource()
    folders = {
        fill(source, tmp_path),
        fill(source, tmp_path, tasks={"left": "L"}),
        fill(source, tmp_path, preprocessing=Preprocessing(100.0, (0.0, 1.0), (4.0, 30.0))),
        fill(source, tmp_path, channels=("C4",)),
    }
    assert len(folders) == 4


def test_goes_on_after_a_break(tmp_path):
    source = FakeSource()

    def broken(subject):
        if subject == "2":
            raise InputError("recording 2 is broken")
        return FakeSource.recordings(source, subject)

    source.recordings = broken
    with pytest.raises(InputError, match="recording 2 is broken"):
        fill(source, tmp_path)
    assert Store(recipe().folder(tmp_path)).subjects() == ["1"]
    del source.recordings
    fill(source, tmp_path)
    assert source.read == ["1", "2"]


def test_a_subject_that_the_source_no_longer_has_is_removed(tmp_path):
    source = FakeSource()
    folder = fill(source, tmp_path)
    del source.marks["1"]
    fill(source, tmp_path, subjects=("2",))
    assert Store(folder).subjects() == ["2"] and not (folder / "sub-1.npy").exists()


def test_what_was_made_of_a_subject_goes_with_it(tmp_path):
    """Trials as networks take them, beside the store: of a subject that is withdrawn, or recorded anew."""
    source = FakeSource()
    folder = fill(source, tmp_path)
    for change in (lambda: source.marks.update({"2": "b"}), lambda: source.marks.pop("1")):
        (folder / "inputs").mkdir()
        (folder / "inputs" / "made.npy").write_bytes(b"of both subjects")
        fill(source, tmp_path, subjects=source.subjects())
        assert (folder / "inputs").exists()  # nothing has changed
        change()
        fill(source, tmp_path, subjects=source.subjects())
        assert not (folder / "inputs").exists()


def test_subjects_stand_in_the_sources_order_whatever_was_prepared_first(tmp_path):
    source = FakeSource()
    fill(source, tmp_path, subjects=("2",))
    assert Store(fill(source, tmp_path)).subjects() == ["1", "2"]


def test_each_subject_keeps_its_own_channels_and_its_digest_follows_the_signals(tmp_path):
    source = FakeSource()
    source.channels["2"] = ["C4", "Pz", "C3"]
    store = Store(fill(source, tmp_path))
    assert store.trials("1").channels == ("C3", "C4") and store.trials("2").channels == ("C4", "Pz", "C3")
    before = store.digest("2")
    source.channels["2"], source.marks["2"] = ["C3", "C4"], "mended"
    store = Store(fill(source, tmp_path))
    assert store.trials("2").channels == ("C3", "C4") and store.digest("2") != before


def test_a_half_written_file_is_refused_and_left_alone(tmp_path):
    folder = fill(FakeSource(), tmp_path)
    path = folder / "sub-1.npy"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="damaged"):
        Store(folder).trials("1")
    with pytest.raises(InputError, match=r"sub-1.npy: damaged, its hash differs"):
        fill(FakeSource(), tmp_path)
    assert path.exists()


def test_a_missing_file_is_prepared_again(tmp_path):
    source = FakeSource()
    folder = fill(source, tmp_path)
    (folder / "sub-2.npy").unlink()
    with pytest.raises(InputError, match=r"sub-2.npy: missing; delete it and run `mfscsn prepare`"):
        Store(folder).trials("2")
    assert len(Store(fill(source, tmp_path)).trials("2")) == 2 and source.read == ["1", "2", "2"]


def test_a_window_that_no_trial_fits_is_refused(tmp_path):
    long = Preprocessing(100.0, (0.0, 300.0), (4.0, 38.0))
    with pytest.raises(InputError, match=r"no trial of the tasks \['left'\] that fits the window \[0.0, 300.0\] s"):
        fill(FakeSource(), tmp_path, preprocessing=long)


def test_a_file_of_another_shape_is_refused(tmp_path):
    folder = fill(FakeSource(), tmp_path)
    np.save(folder / "sub-1.npy", np.zeros((2, 2, 99), np.float32))
    with pytest.raises(InputError, match=r"holds float32 of shape \(2, 2, 99\), expected float32 of shape"):
        Store(folder).trials("1")


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, content):
    folder = recipe().folder(tmp_path)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    if content is not None:
        (folder / MANIFEST).write_text(content)
    for act in (lambda: Store(folder), lambda: fill(FakeSource(), tmp_path)):
        with pytest.raises(InputError, match="not a store of prepared trials"):
            act()
    assert (folder / "thesis.txt").read_text() == "mine"


def test_a_store_of_another_recipe_in_our_place_is_refused(tmp_path):
    folder = fill(FakeSource(), tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["recipe"]["source"] = "test:y"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="a store of another recipe"):
        fill(FakeSource(), tmp_path)


def test_a_task_that_no_subject_has_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(
        InputError, match=r"no such task 'rigth'; did you mean 'right'\?; there are \['left', 'right'\]"
    ):
        fill(FakeSource(), tmp_path, tasks={"left": "left_hand", "rigth": "right_hand"})


def test_no_store_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="no prepared trials; run `mfscsn prepare`"):
        Store(tmp_path / "nothing")


def test_replaced_keeps_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replaced(path) as out:
        out.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device"), OSError("4000 requested and 16 written")]
)
def test_a_full_disk_names_the_file(tmp_path, fault):
    """The second is how numpy says it."""
    path = tmp_path / "sub-01.npy"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left on device.*sub-01.npy"), replaced(path):
        raise fault
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["sub-01.npy"]


def test_a_key_that_is_not_used_names_no_other_store(tmp_path):
    """Else each key that a version adds would have everybody prepare again."""
    plain = Recipe("bids:/x", {}, {"a": "a"}, None, Preprocessing(128.0, (0.0, 2.0), (4.0, 38.0)))
    assert plain.document()["preprocessing"] == {"sfreq": 128.0, "window": [0.0, 2.0], "band": [4.0, 38.0]}
    limited = Recipe("bids:/x", {}, {"a": "a"}, None, Preprocessing(128.0, (0.0, 2.0), (4.0, 38.0), reject=100.0))
    assert limited.document()["preprocessing"]["reject"] == 100.0
    assert limited.folder(tmp_path) != plain.folder(tmp_path)


def test_subjects_whose_names_differ_in_signs_alone_have_a_file_each():
    names = ["p.1", "p_1", "p2"]
    files = [file_of(name, names) for name in names]
    assert len(set(files)) == 3 and files[2] == "sub-p2.npy"  # a name that collides with none stays
    assert file_of("p.1", ["p.1"]) == "sub-p_1.npy"


def test_a_store_in_which_two_subjects_share_a_file_is_mended(tmp_path):
    class Alike(FakeSource):
        def __init__(self):
            super().__init__()
            self.marks = {"p.1": "a", "p_1": "a"}

        def recordings(self, subject):
            self.channels[str(1 + (subject == "p_1"))] = ["C3", "C4"]
            yield from super().recordings(str(1 + (subject == "p_1")))

    source = Alike()
    folder = fill(source, tmp_path, source.subjects())
    store = Store(folder)
    assert not np.array_equal(store.trials("p.1").signals, store.trials("p_1").signals)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["subjects"]["p.1"]
    (folder / entry["file"]).rename(folder / "sub-p_1.npy")
    for name in ("p.1", "p_1"):
        manifest["subjects"][name] |= {"file": "sub-p_1.npy", "sha256": entry["sha256"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    told = {}
    prepare(recipe(), tmp_path, source, source.subjects(), lambda name, what: told.update({name: what}))
    store = Store(folder)
    assert told == {"p.1": "prepared", "p_1": "prepared"}
    assert not np.array_equal(store.trials("p.1").signals, store.trials("p_1").signals)
