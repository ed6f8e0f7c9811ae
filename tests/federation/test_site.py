import pytest
import torch

from data.errors import InputError
from federation.site import BEFORE, NEWEST, SiteFolder, read_tensors


def state(value: float):
    return {"layer": torch.full((3,), value)}, {"layer/exp_avg": torch.full((3,), -value)}


def test_the_last_two_rounds_are_kept_and_told_apart(tmp_path):
    site = SiteFolder(tmp_path / "a", "run")
    for number in (1, 2, 3):
        site.save_private(number, *state(float(number)), trials="t")
    assert torch.equal(site.load_private(3, "t")[0]["layer"], torch.full((3,), 3.0))
    assert torch.equal(site.load_private(2, "t")[1]["layer/exp_avg"], torch.full((3,), -2.0))
    assert site.load_private(1, "t") is None and site.load_private(9, "t")[0]["layer"][0] == 3


def test_a_repeated_round_keeps_the_one_before(tmp_path):
    site = SiteFolder(tmp_path, "run")
    for number, value in ((1, 1.0), (2, 2.0), (2, 2.5)):
        site.save_private(number, *state(value), trials="t")
    assert site.load_private(1, "t")[0]["layer"][0] == 1 and site.load_private(2, "t")[0]["layer"][0] == 2.5


def test_a_crash_between_the_two_files_loses_nothing(tmp_path, monkeypatch):
    site = SiteFolder(tmp_path, "run")
    site.save_private(1, *state(1.0), trials="t")
    monkeypatch.setattr("federation.site.write_tensors", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        site.save_private(2, *state(2.0), trials="t")
    assert site.load_private(1, "t")[0]["layer"][0] == 1


def test_layers_of_another_run_are_refused(tmp_path):
    SiteFolder(tmp_path, "run").save_private(1, *state(1.0), trials="t")
    with pytest.raises(InputError, match="private layers of another run"):
        SiteFolder(tmp_path, "other").load_private(1, "t")


def test_layers_trained_on_other_trials_are_refused(tmp_path):
    site = SiteFolder(tmp_path, "run")
    site.save_private(1, *state(1.0), trials="t")
    with pytest.raises(InputError, match="trained on other trials than are prepared now; start a new run"):
        site.load_private(1, "u")


def test_a_damaged_file_is_named(tmp_path):
    site = SiteFolder(tmp_path, "run")
    site.save_private(1, *state(1.0), trials="t")
    (tmp_path / NEWEST).write_bytes((tmp_path / NEWEST).read_bytes()[:20])
    with pytest.raises(InputError, match="private.safetensors: cannot be read"):
        site.load_private(1, "t")
    with pytest.raises(InputError, match="nothing: cannot be read"):
        read_tensors(tmp_path / "nothing")


@pytest.mark.parametrize("damage", [lambda b: b[:20], lambda b: b[:-5], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_newest_round_falls_back_to_the_one_before(tmp_path, damage):
    """Its head cut off, its end cut off, one bit flipped: safetensors itself notices the first two alone."""
    site = SiteFolder(tmp_path, "run")
    for number in (1, 2):
        site.save_private(number, *state(float(number)), trials="t")
    (tmp_path / NEWEST).write_bytes(damage((tmp_path / NEWEST).read_bytes()))
    assert site.load_private(2, "t")[0]["layer"][0] == 1
    assert "private.safetensors is damaged; goes on with the private layers" in (tmp_path / "log.txt").read_text()
    site.save_private(3, *state(3.0), trials="t")  # and does not take the place of the good one
    assert site.load_private(2, "t")[0]["layer"][0] == 1 and site.load_private(3, "t")[0]["layer"][0] == 3
    (tmp_path / BEFORE).unlink()
    (tmp_path / NEWEST).write_bytes(damage((tmp_path / NEWEST).read_bytes()))
    with pytest.raises(InputError, match="private.safetensors: (damaged|cannot be read)"):
        site.load_private(3, "t")


def test_a_log_line_is_one_line(tmp_path):
    site = SiteFolder(tmp_path, "run")
    site.log("first\n  second")
    assert (tmp_path / "log.txt").read_text().endswith("first second\n")


@pytest.mark.parametrize("which", ["layers", "optimiser"])
def test_what_is_not_finite_is_never_kept(tmp_path, which):
    folder = SiteFolder(tmp_path, "run")
    good, bad = {"w": torch.ones(2)}, {"w": torch.tensor([1.0, float("inf")])}
    state = {"w": torch.zeros(2)}
    folder.save_private(1, good, state, "digest")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="not finite in w; nothing of it is kept"):
        folder.save_private(2, bad if which == "layers" else good, bad if which == "optimiser" else state, "digest")
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
