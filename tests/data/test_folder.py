"""Recordings as people have them: every format, every way to say whose they are and where the cues stand."""

import shutil
import struct

import mne
import numpy as np
import pytest
import scipy.io
from conftest import EDF_CHANNELS as CHANNELS
from conftest import EDF_SFREQ as SFREQ
from conftest import mfscsn, raw_of, refused, write_edf

from data.channel_names import plain_names
from data.errors import InputError
from data.folder import FilesSource, read_table
from data.preprocessing import Preprocessing, cut_trials
from data.to_bids import to_bids
from experiments.new import source_of


def trials(recording):
    tasks = {
        f"{kind}{name}": name[0] for kind in ("", "Comment/") for name in ("left", "right")
    }  # as BrainVision has it
    return cut_trials(recording, Preprocessing(64.0, (0.0, 2.0), (4.0, 30.0)), tasks, "s")


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (["a.edf", "b.edf"], None, {"a": [("", "")], "b": [("", "")]}),
        (["s1/1.edf", "s1/2.edf", "s10/1.edf"], None, {"s1": [("", "1"), ("", "2")], "s10": [("", "1")]}),
        (["S001R04.edf", "S001R10.edf"], "S{subject}R{run}", {"001": [("", "04"), ("", "10")]}),
        (["x/k7/b2.edf", "x/k7/b10.edf"], "*/{subject}/b{run}.edf", {"k7": [("", "2"), ("", "10")]}),
        (["p1_mon_1.edf"], "{subject}_{session}_{run}", {"p1": [("mon", "1")]}),
        (["p1.edf", "notes_p1.edf"], "p{subject}", {"1": [("", "")]}),
    ],
)
def test_names_tell_subject_session_and_run(tmp_path, names, pattern, expected):
    for name in names:
        write_edf(tmp_path / name)
    source = FilesSource(tmp_path, pattern)
    found = {s: [(r.session, r.run) for r in source.recordings(s)] for s in source.subjects()}
    assert found == expected and list(found) == list(expected)


@pytest.mark.parametrize(("name", "writer"), [("s_raw.fif", None), ("s.vhdr", "pybv"), ("s.set", "eeglabio")])
def test_all_formats_give_the_same_trials(tmp_path, name, writer):
    wanted = trials(next(FilesSource(write_edf(tmp_path / "edf" / "s.edf").parent).recordings("s")))
    (tmp_path / "other").mkdir()
    if writer is None:
        raw_of().save(tmp_path / "other" / name, verbose="ERROR")
    else:
        pytest.importorskip(writer)
        mne.export.export_raw(tmp_path / "other" / name, raw_of(), verbose="ERROR")
    source = FilesSource(tmp_path / "other")
    (subject,) = source.subjects()
    got = trials(next(source.recordings(subject)))
    assert got.labels.tolist() == wanted.labels.tolist() == ["l", "r"] * 4
    assert np.abs(got.signals - wanted.signals).max() < 0.05  # microvolts; EDF has 16 bits


def test_cues_stand_in_a_table_in_annotations_or_on_a_channel(tmp_path):
    write_edf(tmp_path / "a.edf", bad=True)
    (tmp_path / "a.csv").write_text("Onset;Duration;Label\n5;2;right\n\n21;2;left\n40;;right\n")
    (recording,) = FilesSource(tmp_path).recordings("a")
    names = sorted(recording.annotations())
    assert names == ["BAD cough", "left", "right"]  # a table takes the place of cues, and bad stretches stay
    cut = trials(recording)
    assert cut.labels.tolist() == ["r", "r"]

    stim = raw_of(channels=(*CHANNELS, "STI"), cues=False, kinds=["eeg"] * 3 + ["stim"])
    codes = np.zeros((1, stim.n_times))
    codes[0, 300:320], codes[0, 1000:1020] = 7, 8
    stim._data[3] = codes
    (tmp_path / "fif").mkdir()
    stim.save(tmp_path / "fif" / "b_raw.fif", verbose="ERROR")
    (recording,) = FilesSource(tmp_path / "fif").recordings("b_raw")
    assert recording.raw.annotations.description.tolist() == ["7", "8"]
    assert np.allclose(recording.raw.annotations.onset, [300 / SFREQ, 1000 / SFREQ])


def test_a_recording_whose_clock_began_elsewhere_has_its_tables_cues_at_the_same_samples(tmp_path):
    raw = raw_of(cues=False)
    raw.set_meas_date(1_600_000_000)
    cropped = raw.crop(10, None)
    cropped.save(tmp_path / "a_raw.fif", verbose="ERROR")
    (tmp_path / "a_raw.csv").write_text("onset,label\n3,left\n")
    (recording,) = FilesSource(tmp_path).recordings("a_raw")
    cut = cut_trials(recording, Preprocessing(SFREQ, (0.0, 2.0), (1.0, 60.0)), {"left": "l"}, "s")
    other = raw_of(cues=False)
    other.set_annotations(mne.Annotations([13.0], 0, ["left"]))
    from data.preprocessing import Recording

    wanted = cut_trials(Recording(other.crop(10, None), "", "", ""), Preprocessing(SFREQ, (0.0, 2.0), (1.0, 60.0)),
                        {"left": "l"}, "s")  # fmt: skip
    assert np.allclose(cut.signals, wanted.signals, atol=1e-3)


def test_electrodes_are_found_behind_an_amplifiers_names():
    names = ["Fc5.", "C3..", "EEG C4-REF", "EEG Cz-LE", "EOG left", "X1", "P3", "EEG P3-REF"]
    assert plain_names(names) == {"Fc5.": "FC5", "C3..": "C3", "EEG C4-REF": "C4", "EEG Cz-LE": "Cz"}


def chunk(tag, content):
    return b"\x04" + struct.pack("<I", len(content) + 2) + struct.pack("<H", tag) + content


def write_xdf(path, gap=0.0, rate=SFREQ, jitter=None):
    """An EEG stream in microvolts and a stream of markers, as the Lab Streaming Layer's recorder writes them."""
    raw = raw_of()
    signals, n = raw.get_data() * 1e6, raw.n_times
    listed = "".join(f"<channel><label>{c}</label><type>EEG</type><unit>microvolts</unit></channel>" for c in CHANNELS)
    head = "<info><name>{}</name><type>{}</type><channel_count>{}</channel_count><nominal_srate>{}</nominal_srate>"
    head += "<channel_format>{}</channel_format><desc>{}</desc></info>"
    eeg = head.format("amp", "EEG", 3, SFREQ, "double64", f"<channels>{listed}</channels>").encode()
    marks = head.format("cues", "Markers", 1, 0, "string", "").encode()
    content = b"XDF:" + chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")
    content += chunk(2, struct.pack("<I", 1) + eeg) + chunk(2, struct.pack("<I", 2) + marks)
    jitter = np.zeros(n) if jitter is None else jitter
    samples = b"".join(
        b"\x08" + struct.pack("<d", 100.0 + k / rate + (gap if k >= 3000 else 0) + jitter[k]) + signals[:, k].tobytes()
        for k in range(n)
    )
    content += chunk(3, struct.pack("<I", 1) + b"\x04" + struct.pack("<I", n) + samples)
    values = b"".join(
        b"\x08" + struct.pack("<d", 100.0 + a["onset"]) + b"\x01" + bytes([len(a["description"])]) +
        a["description"].encode() for a in raw.annotations
    )  # fmt: skip
    content += chunk(3, struct.pack("<I", 2) + b"\x01" + bytes([len(raw.annotations)]) + values)
    foot = "<info><first_timestamp>100</first_timestamp><last_timestamp>200</last_timestamp></info>"
    path.write_bytes(content + b"".join(chunk(6, struct.pack("<I", k) + foot.encode()) for k in (1, 2)))


def test_xdf_is_read_with_its_markers_and_lost_samples_are_refused(tmp_path):
    write_xdf(tmp_path / "s.xdf")
    (recording,) = FilesSource(tmp_path).recordings("s")
    assert recording.raw.ch_names == list(CHANNELS)
    got = trials(recording)
    assert got.labels.tolist() == ["l", "r"] * 4
    assert np.abs(recording.raw.get_data() - raw_of().get_data()).max() < 1.0  # it was filtered in place
    for gap in (5.0, 0.6, 0.12):  # drawn out evenly, the last one would be hidden
        write_xdf(tmp_path / "s.xdf", gap=gap)
        with pytest.raises(
            InputError, match=rf"s.xdf: its stamps jump by {gap:g}\d* s after some 2\d.* s: samples are missing"
        ):
            list(FilesSource(tmp_path).recordings("s"))


def test_cues_of_an_amplifier_whose_clock_is_off_stand_at_their_samples(tmp_path):
    write_xdf(tmp_path / "s.xdf", rate=SFREQ * 1.01)  # the file says SFREQ
    (recording,) = FilesSource(tmp_path).recordings("s")
    onsets = 2.0 + 6 * np.arange(8)
    assert np.allclose(recording.raw.annotations.onset, onsets * 1.01, atol=0.01)


def test_the_rest_of_a_long_recording_and_names_with_brackets(tmp_path):
    raw_of().save(tmp_path / "s1_raw.fif", verbose="ERROR")
    (tmp_path / "s1_raw-1.fif").write_bytes(b"")  # as MNE calls the second part
    assert FilesSource(tmp_path).subjects() == ["s1_raw"]
    write_edf(tmp_path / "edf" / "S[x].edf")
    source = FilesSource(tmp_path / "edf")
    before = source.fingerprint("S[x]")
    (tmp_path / "edf" / "S[x].csv").write_text("onset,label,duration\n1,left,n/a\n")
    assert source.fingerprint("S[x]") != before
    (recording,) = source.recordings("S[x]")
    assert recording.raw.annotations.duration.tolist() == [0.0]
    with pytest.raises(InputError, match="pattern = 5: expected text"):
        FilesSource(tmp_path, 5)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("time_ms,label\n1,left\n", "no column of onsets in seconds"),
        ("onset,code\n1,left\n", "no column of names of cues"),
        ("onset,label\n1,left\nx,right\n", "line 3: onset 'x' is no number of seconds"),
        ("onset;label\n1,5;left\n", "decimals are written with a point"),
        ("onset,label\n-1,left\n", "expected seconds from the recording's start on"),
        ("onset,label\n4000,left\n", "a cue stands at 4000 s, and a.edf ends after 60.0 s"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_line(tmp_path, table, fault):
    write_edf(tmp_path / "a.edf")
    (tmp_path / "a.csv").write_text(table)
    with pytest.raises(InputError, match=r"a\.csv: .*") as error:
        list(FilesSource(tmp_path).recordings("a"))
    assert fault in str(error.value)


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        FilesSource(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="no recording in it"):
        FilesSource(tmp_path)
    write_edf(tmp_path / "a1.edf")
    write_edf(tmp_path / "a2.edf")
    with pytest.raises(InputError, match=r"fits no file, such as 'a1.edf'"):
        FilesSource(tmp_path, "S{subject}")
    with pytest.raises(InputError, match=r"expected \{subject\}"):
        FilesSource(tmp_path, "{person}{run}")
    with pytest.raises(InputError, match=r"a1.edf and a2.edf are both session '', run '' of subject 'a'"):
        FilesSource(tmp_path, "{subject}*")
    (tmp_path / "a3.edf").write_bytes(b"0" * 300)
    with pytest.raises(InputError, match=r"a3.edf: cannot be read"):
        list(FilesSource(tmp_path).recordings("a3"))
    (tmp_path / "a1.csv").write_text("onset,label\n")
    (tmp_path / "a1.tsv").write_text("onset\tlabel\n")
    with pytest.raises(InputError, match=r"a1.csv and a1.tsv both lie beside it"):
        list(FilesSource(tmp_path).recordings("a1"))


def test_a_changed_table_is_prepared_again(tmp_path):
    write_edf(tmp_path / "a.edf")
    source = FilesSource(tmp_path)
    before = source.fingerprint("a")
    (tmp_path / "a.csv").write_text("onset,label\n1,left\n")
    assert source.fingerprint("a") != before
    assert read_table(tmp_path / "a.csv") == ([1.0], [0.0], ["left"])


def test_from_a_folder_of_files_to_a_federation_and_to_bids(tmp_path):
    for subject in ("1", "2"):
        for run in ("1", "2"):
            write_edf(tmp_path / "rec" / f"P{subject}_{run}.edf", int(subject + run), channels=("C3..", "Cz..", "C4.."))
    words = ("--site", "lab=rec", "--pattern", "P{subject}_{run}")
    code, out, err = mfscsn("new", "fed.toml", *words, cwd=tmp_path)
    assert code == 0 and "rec: 2 subjects, 3 channels, 128 Hz; tasks left, right; targets 1, 2" in out, err
    code, out, err = mfscsn("prepare", "fed.toml", cwd=tmp_path)
    assert code == 0 and "3 channels get the names of their electrodes: 'C3..' is 'C3'" in out, err
    code, out, err = mfscsn("doctor", "fed.toml", cwd=tmp_path)
    assert "ok    site 'lab': files:" in out and "2 subjects" in out
    code, out, err = mfscsn("to-bids", "rec", "bids", "--pattern", "P{subject}_{run}", cwd=tmp_path)
    assert code == 0, err
    code, out, err = mfscsn("new", "again.toml", "--site", "lab=bids", cwd=tmp_path)
    assert code == 0 and "bids: 2 subjects, 3 channels, 128 Hz; tasks left, right" in out, err
    assert "already exists" in refused("to-bids", "rec", "bids", "--pattern", "P{subject}_{run}", cwd=tmp_path)
    assert "give the folder that holds the recordings" in refused("new", "x.toml", "--site", "a=fed.toml", cwd=tmp_path)


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (["P065R04", "P065R08", "P066R04"], "P{subject}R{run}"),
        (["s01_1", "s01_2"], "s{subject}_{run}"),
        (["12-run3", "12-run4"], "{subject}-run{run}"),
        (["P065R04", "P066R04"], None),  # one run each
        (["subject1", "subject2"], None),
        (["anna", "berta"], None),
    ],
)
def test_runs_that_look_like_persons_are_refused(tmp_path, names, form):
    """Taken for two persons, one would train where the other is tested."""
    for name in names:
        (tmp_path / f"{name}.edf").write_bytes(b"")
    if form is None:
        assert FilesSource(tmp_path).subjects() == names
        return
    with pytest.raises(InputError, match="one person's runs") as error:
        FilesSource(tmp_path)
    assert f"--pattern '{form}'" in str(error.value)
    persons, each = FilesSource(tmp_path, form).subjects(), FilesSource(tmp_path, "{subject}").subjects()
    assert len(persons) < len(names) == len(each)


def test_bids_needs_names_of_letters_and_digits_that_differ(tmp_path):
    write_edf(tmp_path / "in" / "a-1.edf")
    write_edf(tmp_path / "in" / "a1.edf")
    source = FilesSource(tmp_path / "in")
    with pytest.raises(InputError, match="would all be sub-a1"):
        to_bids(source, source.subjects(), tmp_path / "out", "mi")
    write_edf(tmp_path / "none" / "b.edf", cues=False)
    with pytest.raises(InputError, match="has no cues"):
        to_bids(FilesSource(tmp_path / "none"), ["b"], tmp_path / "out", "mi")


def test_jitter_alone_is_no_loss_and_a_clock_that_is_set_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    write_xdf(tmp_path / "s.xdf", jitter=0.003 * rng.standard_normal(10_000))
    (recording,) = FilesSource(tmp_path).recordings("s")
    assert np.allclose(recording.raw.annotations.onset, 2.0 + 6 * np.arange(8), atol=0.01)
    for gap in (-0.2, -20.0, 20.0):
        write_xdf(tmp_path / "s.xdf", gap=gap)
        with pytest.raises(InputError, match="its stamps jump by .* or the clock was set"):
            list(FilesSource(tmp_path).recordings("s"))
    for rate in (0.9, 1.1, 0.5):
        write_xdf(tmp_path / "s.xdf", rate=SFREQ * rate)
        with pytest.raises(InputError, match="says 128 Hz, and its stamps say"):
            list(FilesSource(tmp_path).recordings("s"))


def test_an_xdf_of_odd_streams_names_them(tmp_path):
    write_xdf(tmp_path / "s.xdf")
    content = (tmp_path / "s.xdf").read_bytes()
    (tmp_path / "s.xdf").write_bytes(
        content.replace(b"<type>EEG</type><channel_count>", b"<type>ExG</type><channel_count>")
    )
    with pytest.raises(InputError, match=r"0 streams of type EEG, expected one; its streams: 'amp' \(exg\), 'cues'"):
        list(FilesSource(tmp_path).recordings("s"))
    (tmp_path / "s.xdf").write_bytes(content.replace(b"<unit>microvolts</unit>", b"<unit>furlongs!!</unit>"))
    with pytest.raises(InputError, match="channels are in furlongs!!; known are volts"):
        list(FilesSource(tmp_path).recordings("s"))


def test_a_long_recording_in_parts_is_one_and_a_part_alone_is_refused(tmp_path):
    raw_of(seconds=60).save(tmp_path / "p1_split-01_raw.fif", verbose="ERROR")
    for number in (2, 3):
        shutil.copy(tmp_path / "p1_split-01_raw.fif", tmp_path / f"p1_split-0{number}_raw.fif")
    source = FilesSource(tmp_path)
    assert source.subjects() == ["p1_raw"] and [p.name for p in source.files] == ["p1_split-01_raw.fif"]
    (tmp_path / "p1_split-01_raw.fif").rename(tmp_path / "q_raw.fif")
    with pytest.raises(InputError, match="p1_split-02_raw.fif: is a part .* p1_split-01_raw.fif, is not beside it"):
        FilesSource(tmp_path)


def test_linked_folders_and_packed_files_are_read(tmp_path):
    (tmp_path / "disk" / "s1").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    raw_of().save(tmp_path / "disk" / "s1" / "a_raw.fif.gz", verbose="ERROR")
    (tmp_path / "here" / "s1").symlink_to(tmp_path / "disk" / "s1")
    (tmp_path / "disk" / "s1" / "up").symlink_to(tmp_path / "here")  # a circle
    assert source_of(str(tmp_path / "disk")).startswith("files:")
    source = FilesSource(tmp_path / "here")
    assert source.subjects() == ["s1"]
    (recording,) = source.recordings("s1")
    assert trials(recording).labels.tolist() == ["l", "r"] * 4


def test_what_a_pattern_cuts_oddly_is_refused_and_what_it_does_not_fit_is_told(tmp_path):
    for name in ("S001R04", "S002R04", "S003-R04", "notes_of_today"):
        write_edf(tmp_path / f"{name}.edf")
    with pytest.raises(InputError, match="takes '003-' of 'S003-R04.edf' for the subject"):
        FilesSource(tmp_path, "S{subject}R{run}")
    (tmp_path / "S003-R04.edf").unlink()
    source = FilesSource(tmp_path, "S{subject}R{run}")
    told = [note for subject in source.subjects() for one in source.recordings(subject) for note in one.notes]
    assert [note for note in told if "fit" in note] == [
        "1 file(s) do not fit pattern = 'S{subject}R{run}': notes_of_today.edf"
    ]


@pytest.mark.parametrize(
    "word", ["boundary", "Boundary", "discontinuity", "-99", "-99.0", "32766", "New Segment/LostSamples", "Gap"]
)
def test_a_trial_that_reaches_over_a_pause_is_left_out_however_it_is_spelt(tmp_path, word):
    raw = raw_of()
    begins = mne.Annotations([0.0, 9.0], 0.0, [word, word])  # the first one begins the recording
    raw.set_annotations(raw.annotations + begins)
    raw.save(tmp_path / "s_raw.fif", verbose="ERROR")
    (recording,) = FilesSource(tmp_path).recordings("s_raw")
    assert word not in recording.unused({"left": "l", "right": "r"})
    got = trials(recording)
    assert got.labels.tolist() == (["l", "r"] * 4)[:1] + (["l", "r"] * 4)[2:]


def test_codes_of_a_channel_count_beside_marks_and_are_masked_to_their_bits(tmp_path):
    raw = raw_of(channels=(*CHANNELS, "STI"), kinds=["eeg"] * 3 + ["stim"], cues=False)
    raw._data[3] = 0
    for k, onset in enumerate(2.0 + 6 * np.arange(8)):
        raw._data[3, round(onset * SFREQ) : round((onset + 1) * SFREQ)] = (1 + k % 2) + (1 << 16) * (k == 3)
    raw.set_annotations(mne.Annotations([57.0], 1.0, ["BAD_blink"]) + mne.Annotations([0.5], 0.0, ["recording begins"]))
    raw.save(tmp_path / "s_raw.fif", verbose="ERROR")
    (recording,) = FilesSource(tmp_path).recordings("s_raw")
    found = sorted(zip(recording.raw.annotations.onset.round(2), recording.raw.annotations.description, strict=True))
    cues = [(onset, name) for onset, name in found if name in ("1", "2")]
    assert [name for _, name in cues] == ["1", "2"] * 4 and cues[3][0] == 20.0
    assert (57.0, "BAD_blink") in found and (20.0, "BAD boundary") in found
    assert "cues are the codes of channel 'STI'" in recording.notes


def test_files_that_were_cut_short_are_one_line(tmp_path):
    write_edf(tmp_path / "s.edf")
    whole = (tmp_path / "s.edf").read_bytes()
    (tmp_path / "s.edf").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(InputError, match=r"s.edf: has \d+ bytes and its header says \d+; it was cut short"):
        list(FilesSource(tmp_path).recordings("s"))
    (tmp_path / "s.edf").unlink()
    raw_of().save(tmp_path / "s_raw.fif", verbose="ERROR")
    whole = (tmp_path / "s_raw.fif").read_bytes()
    (tmp_path / "s_raw.fif").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(InputError, match=r"s_raw.fif: .*cannot be read|cut short"):
        trials(next(FilesSource(tmp_path).recordings("s_raw")))
    (tmp_path / "s_raw.fif").unlink()
    mne.export.export_raw(tmp_path / "b.vhdr", raw_of(), verbose="ERROR")
    data = (tmp_path / "b.eeg").read_bytes()
    (tmp_path / "b.eeg").write_bytes(data[: len(data) * 6 // 10 // 12 * 12])
    with pytest.raises(InputError, match=r"b.vhdr: .*cut short"):
        trials(next(FilesSource(tmp_path).recordings("b")))


def test_a_name_as_the_file_has_it_is_found(tmp_path):
    raw_of(channels=("EEG C3-REF", "EEG Cz-REF", "EEG C4-REF")).save(tmp_path / "s_raw.fif", verbose="ERROR")
    (recording,) = FilesSource(tmp_path).recordings("s_raw")
    got = cut_trials(recording, Preprocessing(64.0, (0.0, 2.0), (4.0, 30.0)), {"left": "l"}, "s", ["EEG C4-REF", "C3"])
    assert got.channels == ("C4", "C3")


def write_gdf(path, signals, rows, missing=None):
    """GDF 2.20 of 16 bits, by hand: microvolts `(n_chans, n_times)`; rows (second, code, seconds)."""
    n_chans, n = signals.shape
    head = bytearray(256)
    head[0:8] = b"GDF 2.20"
    struct.pack_into("<Q", head, 168, (737425 + 366) * 2**32)
    struct.pack_into("<H", head, 184, n_chans + 1)
    struct.pack_into("<qIIH", head, 236, n, 1, int(SFREQ), n_chans)
    fields = b"".join(c.encode().ljust(16) for c in CHANNELS) + b"EEG".ljust(80) * n_chans + b"uV".ljust(6) * n_chans
    fields += struct.pack("<H", 4275) * n_chans
    fields += b"".join(struct.pack("<d", v) * n_chans for v in (-500.0, 500.0, -32768.0, 32767.0)) + bytes(68 * n_chans)
    fields += b"".join(struct.pack("<f", v) * n_chans for v in (100.0, 0.5, 0.0)) + struct.pack("<I", 1) * n_chans
    fields += struct.pack("<I", 3) * n_chans + bytes(32 * n_chans)
    digital = np.round((signals + 500) * 65535 / 1000 - 32768).clip(-32767, 32767).astype("<i2")
    if missing is not None:
        digital[:, missing] = -32768
    events = struct.pack("<B", 3) + struct.pack("<I", len(rows))[:3] + struct.pack("<f", SFREQ)
    events += np.array([round(o * SFREQ) + 1 for o, _, _ in rows], "<u4").tobytes()
    events += np.array([c for _, c, _ in rows], "<u2").tobytes() + bytes(2 * len(rows))
    events += np.array([round(d * SFREQ) for _, _, d in rows], "<u4").tobytes()
    path.write_bytes(bytes(head) + fields + digital.T.tobytes() + events)


def test_gdf_trials_that_were_rejected_and_samples_that_are_missing_are_left_out(tmp_path):
    signals = raw_of().get_data() * 1e6
    rows = [(2.0 + 6 * k, 769 + k % 2, 3.0) for k in range(8)]
    tasks = {"769": "l", "770": "r"}
    settings = Preprocessing(64.0, (0.0, 2.0), (4.0, 30.0))
    write_gdf(
        tmp_path / "s.gdf", signals, [*rows, (13.0, 1023, 5.0)], missing=slice(round(3 * SFREQ), round(3.5 * SFREQ))
    )
    (recording,) = FilesSource(tmp_path).recordings("s")
    assert recording.unused(tasks) == {}
    assert cut_trials(recording, settings, tasks, "s").labels.tolist() == ["r", "r", "l", "r", "l", "r"]
    content = (tmp_path / "s.gdf").read_bytes()
    (tmp_path / "s.gdf").write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(InputError, match=r"s.gdf: .*(cannot be read|cut short)"):
        list(FilesSource(tmp_path).recordings("s"))


def test_an_xdf_that_was_cut_short_is_one_line(tmp_path):
    write_xdf(tmp_path / "s.xdf")
    content = (tmp_path / "s.xdf").read_bytes()
    (tmp_path / "s.xdf").write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(InputError, match=r"s.xdf: (is damaged|cannot be read|\d streams of type EEG)"):
        list(FilesSource(tmp_path).recordings("s"))


def write_set(path, raw, marks):
    """EEGLAB's .set by hand; marks are (name, latency in samples, from 1 on)."""
    event = np.array([(name, latency) for name, latency in marks], dtype=[("type", object), ("latency", float)])
    places = np.array([(name,) for name in raw.ch_names], dtype=[("labels", object)])
    signals = raw.get_data() * 1e6
    fields = {
        "setname": "x", "nbchan": len(signals), "pnts": signals.shape[1], "trials": 1, "srate": raw.info["sfreq"],
        "xmin": 0.0, "xmax": raw.times[-1], "data": signals, "chanlocs": places, "event": event, "icawinv": [],
        "icaweights": [], "icasphere": [], "ref": "common",
    }  # fmt: skip
    scipy.io.savemat(path, {"EEG": fields}, appendmat=False)


def test_a_mark_before_the_first_sample_is_no_sign_of_a_file_cut_short(tmp_path):
    """EEGLAB puts a boundary at half a sample before a recording that follows another."""
    raw = raw_of()
    cues = [(a["description"], a["onset"] * SFREQ + 1) for a in raw.annotations]
    write_set(tmp_path / "b.set", raw, [("boundary", 0.5), *cues])
    (recording,) = FilesSource(tmp_path).recordings("b")
    assert len(trials(recording).labels) == 8
    write_set(tmp_path / "b.set", raw, [*cues, ("left", raw.n_times + 500.0)])
    with pytest.raises(InputError, match="b.set: ends after .*, and has cues behind that"):
        next(FilesSource(tmp_path).recordings("b"))


def test_annotations_in_an_older_code_page_are_read(tmp_path):
    written = write_edf(tmp_path / "p.edf")
    written.write_bytes(written.read_bytes().replace(b"right", b"h\xe4nde"))
    (recording,) = FilesSource(tmp_path).recordings("p")
    assert "hände" in recording.annotations()
    assert any("read as Latin-1" in note for note in recording.notes)


def test_a_rate_that_edf_cannot_hold_is_told_with_a_way_out(tmp_path):
    raw = raw_of()
    raw = mne.io.RawArray(raw.get_data(), mne.create_info(raw.ch_names, 125.3, "eeg")).set_annotations(raw.annotations)
    raw.save(tmp_path / "in_raw.fif", verbose="ERROR")
    source = FilesSource(tmp_path)
    with pytest.raises(InputError, match=r"samples at 125\.3 Hz are none; resample it to a whole number of Hz"):
        to_bids(source, source.subjects(), tmp_path / "out", "mi")
