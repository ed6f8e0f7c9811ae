"""`mfscsn doctor` finds what would stop a run, and says what to do."""

import socket
from importlib.metadata import version
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
    assert f"torch {version('torch')}, torchaudio" in out and "site 'south': simulated:laboratory, 2 subjects" in out
    assert not (tmp_path / "prepared").exists() and not (tmp_path / "runs").exists()


def test_packages_that_do_not_fit_are_found_by_importing_them(tmp_path, monkeypatch):
    """As torch 2.11.0 with torchaudio 2.11.1 did: installed as asked for, and not to be loaded."""
    (tmp_path / "site" / "torchaudio").mkdir(parents=True)
    (tmp_path / "site" / "torchaudio" / "__init__.py").write_text("raise OSError('undefined symbol: torch_exception')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    code, out, _ = mfscsn("doctor", cwd=tmp_path)
    (found,) = lines(out)
    torch, torchaudio = version("torch"), version("torchaudio")
    assert code == 1 and f"torch {torch} and torchaudio {torchaudio} do not fit: torchaudio cannot be imported" in found
    assert "undefined symbol" in found and f"'torchaudio=={torchaudio}'" in found and "'torch==" in found


def test_a_package_whose_import_kills_python_is_named(tmp_path, monkeypatch):
    (tmp_path / "site" / "mne").mkdir(parents=True)
    (tmp_path / "site" / "mne" / "__init__.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    found = [str(f) for f in examine(None, None, tmp_path / "p", tmp_path / "r", []) if not f.good]
    assert len(found) == 1 and "mne cannot be imported (its import ended Python with -6)" in found[0]
    assert "pip install --force-reinstall 'mne" in found[0]


def test_packages_of_another_version_or_missing(monkeypatch, tmp_path):
    real = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: {"flwr": "1.40.0", "mne": None}.get(name, real(name)))
    monkeypatch.setattr(doctor, "_imports", lambda: [])
    found = [str(f) for f in examine(None, None, tmp_path / "p", tmp_path / "r", []) if not f.good]
    assert len(found) == 2 and "mne is missing, expected" in found[0] and "pip install" in found[0]
    assert "flwr 1.40.0, expected ==1.42" in found[1]


def test_an_extra_that_is_not_installed_is_no_fault_and_is_named(monkeypatch, tmp_path):
    real = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name == "opacus" else real(name))
    monkeypatch.setattr(doctor, "_imports", lambda: [])
    found = list(map(str, examine(None, None, tmp_path / "p", tmp_path / "r", [])))
    assert "without the extras privacy (pip install 'mfscsn[NAME]')" in found[0]


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
