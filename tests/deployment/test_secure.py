"""Secure aggregation between four sites and a server over TLS; one of them goes away in the middle."""

import json

import pytest
from conftest import mfscsn
from deployment.harness import Deployment, kill, tiny_site, wait_for, whole_federation

from experiments.prepare import prepare_sites
from experiments.simulate import train_rounds
from federation.contract import load_federation
from federation.run_folder import RunFolder

NAMES = ["east", "north", "south", "west"]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("secure"))
    made.begin(
        'name = "secure"\n[contract]\nsecure_aggregation = true\nmin_sites = 3\nweighting = "equal"\ndeadline = 60.0\n'
        "[training]\nrounds = 2\n"
    )
    sources = ["simulated:clinic", "simulated:laboratory", "simulated:university", "simulated:clinic"]
    for name, source in zip(NAMES, sources, strict=True):
        made.add_site(name, tiny_site(source))
    made.serve(cheats=True)
    made.join(*NAMES)
    yield made
    made.end()


def test_over_tls_as_in_a_simulation_and_a_site_may_go_away(four):
    code, out, err = four.train()
    assert code == 0, out + err
    assert "within 4.8e-07 of the plain mean" in out
    run = four.run()
    assert [row["status"] for row in run.history()] == ["ok"] * 8 and run.secure_aggregation()["sites"] == 4
    path = whole_federation(four, NAMES)
    path.write_text(path.read_text().replace("secure_aggregation = true", "secure_aggregation = false"))
    federation = prepare_sites(load_federation(path), four.folder / "store")
    plain = RunFolder.create(four.folder / "plain", federation, four.folder / "store", 1)
    train_rounds(plain, lambda step: None)
    theirs = plain.load_common(1)
    for name, layer in run.load_common(1).items():
        assert (layer - theirs[name]).abs().max() < 5e-7

    code, out, _ = mfscsn("site", "check", four.folder / "west", "--offline", cwd=four.folder)
    assert code == 0 and "masked: the server can read the sites' sum alone" in out and "number of" not in out

    following = four.train_beside("--rounds", "4")
    wait_for(lambda: len(list(four.folder.glob("server/runs/*/common/round-0001.safetensors"))) == 2, 120)
    kill(four.running.pop("west"))
    wait_for(lambda: any(row["status"] != "ok" for row in four.run().history()), 200)
    four.join("west")  # the next round needs four again
    out, err = following.communicate(timeout=400)
    assert following.returncode == 0, out + err
    rows = four.run().history()
    assert {row["status"] for row in rows if row["site"] != "west"} == {"ok"}
    missed = [int(row["round"]) for row in rows if row["site"] == "west" and row["status"] != "ok"]
    assert missed and {row["round"] for row in rows} == {str(k) for k in range(1, 5)} and max(missed) < 4


def test_a_server_that_sums_again_without_one_site_is_refused(four):
    """The attack: the difference of two sums of the same trainings, one of them without a site, is that site's."""
    (four.folder / "attack").write_text("two sums")
    code, out, err = four.train("--rounds", "1")
    (four.folder / "attack").unlink()
    assert code == 0, out + err
    assert [row["status"] for row in four.run().history()] == ["ok"] * 4
    told = json.loads((four.folder / "attacked.json").read_text())
    assert set(told) == {"the newest round again", "a run that begins alike"}
    for name, words in told.items():
        assert "0 of 4 sites were there to uncover the sum" in words, (name, words)
    said = "".join(map(four.said, NAMES))  # whom the server leaves out is not asked
    assert said.count("round 1 was summed already, over other sites or trials") == 3
    assert said.count("summed over other sites before, in this run or another") == 3
