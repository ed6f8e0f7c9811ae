"""Preparing a federation: a target's test trials stay out of training, however its recordings are called."""

import pytest
from conftest import federation_of, tiny_toml, write_bids

from data.errors import InputError
from experiments.prepare import prepare_sites

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
