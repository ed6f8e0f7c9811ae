import numpy as np
import pytest

from data.edf import first_pause


def edf(path, starts, kind=b"EDF+D", duration=1.0, n_times=100):
    """Write an EDF+ file of one channel whose records begin at `starts` seconds."""
    fields = [(16, [b"C3", b"EDF Annotations"]), (80, [b"", b""]), (8, [b"uV", b""])]
    fields += [(8, [b"-100", b"-1"]), (8, [b"100", b"1"]), (8, [b"-32768"] * 2), (8, [b"32767"] * 2), (80, [b"", b""])]
    fields += [(8, [str(n_times).encode(), b"20"]), (32, [b"", b""])]
    head = b"0".ljust(8) + b"X X X X".ljust(80) + b"Startdate X X X X".ljust(80) + b"01.01.2000.00.00"
    head += b"768".ljust(8) + kind.ljust(44) + str(len(starts)).encode().ljust(8) + str(duration).encode().ljust(8)
    head += b"2".ljust(4) + b"".join(value.ljust(size) for size, values in fields for value in values)
    records = [
        np.arange(n_times, dtype="<i2").tobytes() + f"+{start:g}\x14\x14".encode().ljust(40, b"\0") for start in starts
    ]
    path.write_bytes(head + b"".join(records))
    return path


def test_a_pause_is_found_with_its_place_and_length(tmp_path):
    assert first_pause(edf(tmp_path / "a.edf", [0, 1, 2, 10, 11])) == (3.0, 7.0)


@pytest.mark.parametrize(("starts", "kind"), [([0, 1, 2], b"EDF+D"), ([0, 1, 9], b"EDF+C")])
def test_gapless_files_have_no_pause(tmp_path, starts, kind):
    assert first_pause(edf(tmp_path / "a.edf", starts, kind)) is None


def test_time_that_runs_back_is_a_pause(tmp_path):
    assert first_pause(edf(tmp_path / "a.edf", [0, 5, 3])) == (1.0, 4.0)
    assert first_pause(edf(tmp_path / "b.edf", [5, 3])) == (1.0, -3.0)


def test_mne_reads_what_is_written_here_as_gapless(tmp_path):
    import mne

    raw = mne.io.read_raw(edf(tmp_path / "a.edf", [0, 1, 10]), verbose="ERROR")
    assert raw.n_times / raw.info["sfreq"] == 3.0  # why `first_pause` is there


@pytest.mark.parametrize("n_bytes", [0, 200, 700, 900])
def test_a_damaged_file_is_left_to_its_reader(tmp_path, n_bytes):
    path = edf(tmp_path / "a.edf", [0, 1, 2])
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert first_pause(path) is None
