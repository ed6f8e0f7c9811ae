"""`mfscsn demo`: the demonstration, then its control, here on the tiny federation."""

import pytest
from conftest import mfscsn, tiny_toml

from experiments.cli import train
from federation.run_folder import RunFolder


@pytest.fixture
def tiny_demo(tmp_path, monkeypatch):
    for name in ("DEMO", "CONTROL"):
        path = tmp_path / f"{name.lower()}.toml"
        text = tiny_toml(extractor="common-space")
        path.write_text(text if name == "DEMO" else text.replace("n_subjects = 3,", "n_subjects = 3, depth = 0.0,"))
        monkeypatch.setattr(train, name, path)


def test_the_demonstration_prints_its_control_and_a_second_go_trains_nothing(tmp_path, tiny_demo, prepared):
    words = ("demo", "--out", "run", "--store", prepared, "--seed", "3", "--rounds", "1")
    code, out, err = mfscsn(*words, cwd=tmp_path)
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("control: ")]
    assert "has no imagery" not in line and "at the south; beside those of the demonstration" in line
    control = RunFolder(tmp_path / "run" / "control")
    assert control.federation.site[0].dataset[0].options["depth"] == 0.0
    assert (control.federation.training.seed, control.last_round()) == (3, 1)
    before = (control.path / "history.csv").read_bytes()
    code, again, err = mfscsn("demo", "--resume", "run", cwd=tmp_path)
    assert code == 0, err
    assert line in again and (control.path / "history.csv").read_bytes() == before
