"""`mfscsn doctor` finds what would stop a run, and says what to do."""

import socket
from pathlib import Path

import pytest
from conftest import mfscsn, tiny_toml

from experiments import doctor
from experiments.doctor import examine


def lines(out):
    return [line for line in out.splitlines() if line.startswith("wrong")]


def test_all_is_well_here(tmp_path, tiny_file):
    code, out, _ = mfscsn("doctor", tiny_file, cwd=tmp_path)
    assert code == 0 and not lines(out), out
    assert "torch 2.11" in out and "site 'south': simulated:laboratory, 2 subjects" in out
    assert not (tmp_path / "prepared").exists() and not (tmp_path / "runs").exists()


def test_torch_paired_wrongly(tmp_path, monkeypatch):
    fake = tmp_path / "site" / "torchaudio-2.9.1.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.9.1\n")
    monkeypatch.syspath_prepend(fake.parent)
    code, out, _ = mfscsn("doctor", cwd=tmp_path)
    found = lines(out)
    assert code == 1 and len(found) == 1
    assert "torchaudio 2.9.1; they must be of one release: pip install 'torch==2.11.*'" in found[0]


def test_a_package_that_is_missing(monkeypatch, tmp_path):
    real = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name == "flwr" else real(name))
    found = [f for f in examine(None, None, tmp_path / "p", tmp_path / "r", []) if not f.good]
    assert len(found) == 1 and "flwr is missing, expected ==1.41" in str(found[0]) and "pip install" in found[0].remedy


def test_recordings_that_are_not_there(tmp_path):
    (tmp_path / "fed.toml").write_text(
        tiny_toml()
        .replace('"simulated:clinic"\noptions', '"bids:recordings"\n#')
        .replace("targets = [1, 2]", "targets = [1, 9]")
    )
    code, out, _ = mfscsn("doctor", "fed.toml", cwd=tmp_path)
    found = lines(out)
    assert code == 1 and len(found) == 2, out
    assert "site 'north': bids:" in found[0] and "no such folder; mend the path, or give --data-root" in found[0]
    assert "site 'south'" in found[1] and "no such subject '9'" in found[1]
    code, out, _ = mfscsn("doctor", "nothing.toml", cwd=tmp_path)
    assert code == 1 and "nothing.toml: no such file" in lines(out)[0]


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs a folder that even root cannot write")
def test_folders_that_cannot_be_written(tmp_path):
    code, out, _ = mfscsn("doctor", "--out", "/proc/sys/runs", "--store", "/proc/sys/prepared", cwd=tmp_path)
    found = lines(out)
    assert code == 1 and "/proc/sys/prepared: prepared trials cannot be written" in found[0]
    assert "/proc/sys/runs: runs cannot be written" in found[1] and "give another --out" in found[1]


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, _ = mfscsn("doctor", "--port", port, cwd=tmp_path)
    assert code == 1 and f"port {port} is taken" in lines(out)[0] and "give another port" in lines(out)[0]


def test_too_little_memory_and_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "MEMORY", 1e6)
    monkeypatch.setattr(doctor, "DISK", 1e9)
    found = [str(f) for f in examine(None, None, tmp_path / "p", tmp_path / "r", []) if not f.good]
    assert len(found) == 2 and "close other programs" in found[0] and "give --store on another disk" in found[1]
