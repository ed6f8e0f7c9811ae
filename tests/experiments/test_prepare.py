"""Preparing a federation: a target's test trials stay out of training, however its recordings are called."""

import numpy as np
import pytest
from conftest import federation_of, tiny_toml, write_bids

from data.errors import InputError
from experiments.prepare import prepare_sites
from federation.contract import load_federation

BIDS = """
name = "two"
[contract]
window = [0.5, 2.5]
[[site]]
name = "north"
[[site.dataset]]
source = "bids:study"
tasks = ["left_hand", "right_hand"]
targets = ["02"]
calibration = {{ first = 4 }}
[[site]]
name = "south"
[[site.dataset]]
name = "again"
source = "bids:{other}"
tasks = ["left_hand", "right_hand"]
{more}
"""


@pytest.fixture
def folder(tmp_path):
    write_bids(tmp_path / "study", ["01", "02"], ["1"], ["C3", "Cz", "C4"])
    (tmp_path / "mirror").symlink_to(tmp_path / "study")
    return tmp_path


@pytest.mark.parametrize("other", ["./study", "mirror", "../{}/study"])
def test_a_folder_by_another_name_is_the_same_folder(folder, other):
    federation = federation_of(BIDS.format(other=other.format(folder.name), more=""), folder)
    with pytest.raises(InputError, match="target '02' (is also subject '02' of data set 'again' at site 'south'|of)"):
        prepare_sites(federation, folder / "store")


def test_what_is_kept_apart_is_prepared(folder):
    for more in ('subjects = ["01"]', 'targets = ["02"]\ncalibration = { first = 4 }'):
        federation = federation_of(BIDS.format(other="mirror", more=more), folder)
        assert len(prepare_sites(federation, folder / "store").site) == 2


def test_a_simulated_centre_with_a_default_spelt_out_is_the_same_centre(tmp_path):
    text = tiny_toml()
    north = text[text.index("[[site]]") : text.index('[[site]]\nname = "south"')]
    for old, new in (
        ('"north"', '"other"'),
        ("n_runs = 2", "n_runs = 2, noise = 1.3"),
        ("targets", "# targets"),
        ("calibration", "# calibration"),
        ('"simulated:clinic"', '"simulated:clinic"\nname = "x"'),
    ):
        north = north.replace(old, new)
    with pytest.raises(InputError, match="target '3' is also subject '3' of data set 'x' at site 'other'"):
        prepare_sites(federation_of(text + north, tmp_path), tmp_path / "store")


def test_a_copy_of_a_target_under_another_name_does_not_train(tmp_path):
    rng = np.random.default_rng(0)
    one, other = rng.normal(scale=10, size=(2, 12, 3, 256))
    labels = np.array(["left", "right"] * 6)
    np.savez(
        tmp_path / "a.npz",
        signals=np.concatenate([one, one, other]),
        labels=np.tile(labels, 3),
        subjects=np.repeat(["S01", "S01 copy", "S02"], 12),
        channels=np.array(["C3", "Cz", "C4"]),
        sfreq=128.0,
    )
    (tmp_path / "fed.toml").write_text(
        '[contract]\nwindow = [0.0, 2.0]\n[[site]]\nname = "lab"\n[[site.dataset]]\nsource = "arrays:a.npz"\n'
        'tasks = ["left", "right"]\ntargets = ["S01"]\ncalibration = { first = 4 }\n'
    )
    with pytest.raises(InputError, match="target 'S01' is also subject 'S01 copy'"):
        prepare_sites(load_federation(tmp_path / "fed.toml"), tmp_path / "store")
