import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import refused, write_bids

from data.bids import BidsSource, natural
from data.errors import InputError
from data.preprocessing import Preprocessing, cut_trials
from data.sources import open_source


@pytest.fixture
def bids(tmp_path):
    """A BIDS folder written by MNE-BIDS: two subjects, two runs each."""
    import mne
    import mne_bids

    rng = np.random.default_rng(0)
    for subject in ("01", "02"):
        for run in ("1", "2"):
            info = mne.create_info(["C3", "Cz", "C4"], 128.0, "eeg", verbose="ERROR")
            info["line_freq"] = 50
            raw = mne.io.RawArray(1e-5 * rng.normal(size=(3, 128 * 40)), info, verbose="ERROR")
            raw.set_annotations(mne.Annotations([5, 15, 25], 4.0, ["left_hand", "right_hand", "rest"]))
            path = mne_bids.BIDSPath(subject=subject, run=run, task="imagery", root=tmp_path, datatype="eeg")
            mne_bids.write_raw_bids(raw, path, allow_preload=True, format="EDF", overwrite=True, verbose="ERROR")
    return tmp_path


def test_bids_is_read_in_order_with_its_trial_types(bids):
    source = open_source(f"bids:{bids}")
    assert source.subjects() == ["01", "02"]
    recordings = list(source.recordings("01"))
    assert [r.run for r in recordings] == ["1", "2"] and recordings[0].where.endswith("_eeg.edf")
    p = Preprocessing(128.0, (0.5, 3.5), (4.0, 38.0))
    trials = cut_trials(recordings[0], p, {"left_hand": "left_hand", "rest": "rest"}, "01")
    assert trials.labels.tolist() == ["left_hand", "rest"]
    assert 2 < trials.signals.std() < 12


def test_bids_fingerprint_follows_the_files(bids):
    source = open_source(f"bids:{bids}")
    before = source.fingerprint("01"), source.fingerprint("02")
    events = next(bids.glob("sub-01/eeg/*events.tsv"))
    events.write_text(events.read_text() + "\n")
    assert source.fingerprint("01") != before[0] and source.fingerprint("02") == before[1]


def test_run_10_follows_run_2():
    assert sorted(["run-10", "run-2", "run-1"], key=natural) == ["run-1", "run-2", "run-10"]


def test_an_unreadable_file_is_named(bids):
    next(bids.glob("sub-01/eeg/*run-1_eeg.edf")).write_bytes(b"not an edf")
    with pytest.raises(InputError, match=r"run-1_eeg.edf: it, or its \*_events.tsv, .* cannot be read"):
        list(open_source(f"bids:{bids}").recordings("01"))


def test_events_without_trial_types_are_refused(bids):
    events = next(bids.glob("sub-01/eeg/*run-1_events.tsv"))
    events.write_text(events.read_text().replace("trial_type", "condition", 1))
    with pytest.raises(InputError, match=r"run-1_events.tsv: no column 'trial_type'; there are \['onset'"):
        list(open_source(f"bids:{bids}").recordings("01"))


def test_a_recording_that_ends_before_its_events_is_refused(bids):
    recording = next(bids.glob("sub-01/eeg/*run-1_eeg.edf"))
    content = recording.read_bytes()
    recording.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"run-1_eeg.edf: has \d+ bytes and its header says \d+; it was cut short"):
        list(open_source(f"bids:{bids}").recordings("01"))
    head, n_records = int(content[184:192]), int(content[236:244])
    kept = n_records // 2  # as if it had been written so
    length = head + kept * (len(content) - head) // n_records
    recording.write_bytes((content[:236] + str(kept).ljust(8).encode() + content[244:])[:length])
    with pytest.raises(InputError, match=r"run-1_eeg.edf: ends after .* s, but \d of 3 events in .* is the file cut"):
        list(open_source(f"bids:{bids}").recordings("01"))


def write(path, *rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def a_file(bids, ending):
    return next(bids.glob(f"sub-01/eeg/*run-1_{ending}"))


def read(bids, **options):
    return list(open_source(f"bids:{bids}", options).recordings("01"))


def test_channels_are_matched_by_name_in_any_order(bids):
    table = a_file(bids, "channels.tsv")
    before = read(bids)[0].raw
    head, *rows = table.read_text().splitlines(keepends=True)
    table.write_text(head + "".join(rows[::-1]))
    after = read(bids)[0].raw
    for name in ("C3", "Cz", "C4"):
        np.testing.assert_array_equal(after.get_data(name), before.get_data(name))


def test_channels_that_the_table_names_otherwise_are_renamed_by_place(bids):
    table = a_file(bids, "channels.tsv")
    table.write_text(table.read_text().replace("C3", "FC3"))
    assert read(bids)[0].raw.ch_names == ["FC3", "Cz", "C4"]


def test_channels_renamed_and_moved_at_once_are_refused(bids):
    table = a_file(bids, "channels.tsv")
    head, c3, cz, c4 = table.read_text().splitlines(keepends=True)
    table.write_text(head + cz.replace("Cz", "FCz") + c3 + c4)
    with pytest.raises(InputError, match=r"channels.tsv: lists 'C3' as channel 2, and in .*_eeg.edf that is channel 1"):
        read(bids)


def test_a_recording_in_two_formats_is_refused(bids):
    first = a_file(bids, "eeg.edf")
    first.with_suffix(".set").write_bytes(b"the same, in EEGLAB's format")
    with pytest.raises(InputError, match=r"run-1_eeg.*one recording in two formats; each trial would count twice"):
        read(bids)


def test_two_tasks_with_the_same_cues_are_told_apart(bids):
    for path in list(bids.glob("sub-01/eeg/*run-1_*")):
        path.with_name(path.name.replace("task-imagery", "task-execution")).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"'execution' and 'imagery'.*'left_hand'.*options = { task = 'execution' }"):
        read(bids)
    assert [r.run for r in read(bids, task="imagery")] == ["1", "2"]
    assert [r.run for r in read(bids, task="execution")] == ["1"]
    with pytest.raises(InputError, match="no EEG file of task 'walking'"):
        read(bids, task="walking")


def test_a_name_is_not_split_by_the_values_beside_it(bids):
    rows = [("onset", "duration", "trial_type", "value"), ("5", "4", "left_hand", "1"), ("15", "4", "left_hand", "2")]
    write(a_file(bids, "events.tsv"), *rows)
    assert read(bids)[0].annotations() == {"left_hand"}


def test_values_name_the_cues_where_no_row_has_a_trial_type(bids):
    rows = [("onset", "duration", "trial_type", "value"), ("5", "4", "n/a", "769"), ("15", "4", "n/a", "770")]
    for run in ("1", "2"):
        write(next(bids.glob(f"sub-01/eeg/*run-{run}_events.tsv")), *rows)
    source = open_source(f"bids:{bids}")
    assert {"769", "770"} <= source.annotations() and read(bids)[0].annotations() == {"769", "770"}


def test_rows_without_an_onset_are_left_out_and_said(bids):
    rows = [("onset", "duration", "trial_type"), ("n/a", "n/a", "left_hand"), ("15", "4", "right_hand")]
    write(a_file(bids, "events.tsv"), *rows)
    recording = read(bids)[0]
    assert recording.annotations() == {"right_hand"}
    assert recording.notes == ["sub-01_task-imagery_run-1_events.tsv: 1 rows without an onset are left out"]


def test_a_decimal_comma_is_named_with_its_line(bids):
    rows = [("onset", "duration", "trial_type"), ("5.0", "4", "left_hand"), ("15,5", "4", "right_hand")]
    write(a_file(bids, "events.tsv"), *rows)
    with pytest.raises(InputError, match=r"line 3: onset '15,5' is no number of seconds; decimals are written with a"):
        read(bids)


def test_onsets_in_milliseconds_are_asked_about(bids):
    rows = [("onset", "duration", "trial_type"), ("5000", "4000", "left_hand"), ("15000", "4000", "right_hand")]
    write(a_file(bids, "events.tsv"), *rows)
    with pytest.raises(InputError, match="2 of 2 events in .* are the onsets in seconds?"):
        read(bids)


def test_columns_that_no_tab_separates_are_named(bids):
    a_file(bids, "events.tsv").write_text("onset,duration,trial_type\n5,4,left_hand\n")
    with pytest.raises(InputError, match="no column 'onset'.*columns are separated by tabs"):
        read(bids)


def test_a_byte_order_mark_in_the_sidecar_is_named(bids):
    sidecar = a_file(bids, "eeg.json")
    sidecar.write_bytes(b"\xef\xbb\xbf" + sidecar.read_bytes())
    with pytest.raises(InputError, match=r"run-1_eeg.json: begins with a byte order mark"):
        read(bids)


def test_what_the_desktop_left_behind_is_no_recording(bids):
    (bids / "sub-01/eeg/._sub-01_task-imagery_run-1_eeg.edf").write_bytes(b"of another kind")
    (bids / "sub-01/eeg/._sub-01_task-imagery_run-1_events.tsv").write_bytes(b"\x00\xff")
    assert len(read(bids)) == 2 and "left_hand" in open_source(f"bids:{bids}").annotations()


def test_a_capital_ending_is_named(bids):
    for path in list(bids.glob("sub-01/eeg/*.edf")):
        path.rename(path.with_suffix(".EDF"))
    with pytest.raises(InputError, match=r"no EEG file .*; there is .*_eeg.EDF, rename it"):
        read(bids)


def test_content_that_was_never_brought_is_named(bids):
    recording = a_file(bids, "eeg.edf")
    recording.unlink()
    recording.symlink_to(".git/annex/objects/away")
    with pytest.raises(InputError, match=r"a link whose content is not here; `datalad get`"):
        read(bids)


def test_the_time_of_acquisition_orders_the_runs_where_it_is_told(bids):
    scans = bids / "sub-01/sub-01_scans.tsv"
    names = [f"eeg/sub-01_task-imagery_run-{run}_eeg.edf" for run in ("1", "2")]
    write(scans, ("filename", "acq_time"), (names[0], "2020-01-01T12:00:00"), (names[1], "2020-01-01T11:00:00"))
    assert [r.run for r in read(bids)] == ["2", "1"]
    write(scans, ("filename", "acq_time"), (names[0], "2020-01-01T12:00:00"), (names[1], "n/a"))
    assert [r.run for r in read(bids)] == ["1", "2"]


def test_a_folder_that_is_no_bids_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no sub-\* folder"):
        open_source(f"bids:{tmp_path}")


def test_a_recording_with_a_pause_is_refused(bids):
    recording = a_file(bids, "eeg.edf")
    content = recording.read_bytes()
    assert b"EDF+C" in content and b"+39\x14\x14" in content
    recording.write_bytes(content.replace(b"EDF+C", b"EDF+D", 1).replace(b"+39\x14\x14", b"+59\x14\x14", 1))
    with pytest.raises(InputError, match=r"stands still for 20 s after 39 s \(EDF\+D\)"):
        read(bids)


def test_a_lock_that_a_killed_program_left_is_not_waited_for_and_told(tmp_path):
    """MNE-BIDS waits a minute for it, at each file."""
    write_bids(tmp_path, ["1"], ["1"], ["C3", "C4"], names=("left", "right"))
    (recording,) = BidsSource(tmp_path).recordings("1")
    where = Path(recording.where)
    for beside in (where, where.with_name(where.name.replace("_eeg.edf", "_events.tsv")), *where.parent.glob("*.json")):
        beside.with_name(f"{beside.name}.lock").touch()
    code = (
        "import time; from pathlib import Path; from data.bids import BidsSource; began = time.monotonic();"
        f" (r,) = BidsSource(Path({str(tmp_path)!r})).recordings('1'); print(time.monotonic() - began < 40, r.notes)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("True") and "a lock that a killed program has left; remove it" in done.stdout, (
        done.stderr
    )


def test_a_subject_whose_name_is_none_is_named(tmp_path):
    write_bids(tmp_path, ["1"], ["1"], ["C3", "C4"], names=("left", "right"))
    (tmp_path / "sub-[2\x1b[2J").mkdir()
    told = refused("new", "f.toml", "--site", f"a={tmp_path}", cwd=tmp_path)
    assert "BIDS names a subject by letters and digits" in told and "\x1b" not in told
