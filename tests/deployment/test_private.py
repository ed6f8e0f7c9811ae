"""Sites with differential privacy and a server over TLS: one ledger for all runs, and an end at the budget."""

import json

import pytest
from conftest import mfscsn
from deployment.harness import Deployment, tiny_site

NAMES = ["north", "south"]


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("private"))
    made.begin(
        'name = "private"\n[contract]\nextractor = "shallow-group"\nalignment = "standard"\nweighting = "equal"\n'
        "deadline = 60.0\n[training]\nrounds = 2\nbatch_size = 8\n"
    )
    for name, source in zip(NAMES, ("simulated:clinic", "simulated:laboratory"), strict=True):
        made.add_site(
            name,
            {
                **tiny_site(source),
                "metrics": [],
                "scores": [],
                "privacy": {"epsilon": 1.5, "n_trials": 24, "share": 1.0, "noise_multiplier": 4.0},
            },
        )
    made.serve()
    made.join(*NAMES)
    yield made
    made.end()


def test_a_ledger_goes_on_over_runs_and_ends_them(private):
    code, out, err = private.train()
    assert code == 0, out + err
    ledgers = [json.loads((private.folder / name / "privacy.json").read_text()) for name in NAMES]
    assert all([entry["round"] for entry in ledger["rounds"]] == [1, 2] for ledger in ledgers)
    code, out, _ = mfscsn("site", "check", private.folder / "north", "--offline", cwd=private.folder)
    assert code == 0 and f"{ledgers[0]['epsilon']:.3g} is spent" in out and "no training metric" in out

    code, out, err = private.train("--rounds", "500")
    assert code == 1 and "has spent its privacy budget, and trains no more" in err, out + err
    for name, before in zip(NAMES, ledgers, strict=True):
        after = json.loads((private.folder / name / "privacy.json").read_text())
        assert after["rounds"][:2] == before["rounds"] and after["epsilon"] <= 1.5
        assert len({entry["run"] for entry in after["rounds"]}) == 2
