"""The attacks of a server, and of a site, that cheat: real processes over TLS, whose code is not ours any more."""

import json

from deployment.harness import tiny_site, wait_for

from federation.messages import SITE_FAILED
from federation.site_network import server_network

FEDERATION = (
    'name = "tiny"\n{}\n[contract]\nwindow = [0.5, 2.5]\nmin_sites = 1\nweighting = "trials"\n'
    "[training]\nrounds = {}\nbatch_size = 8\n"
)


def test_a_server_that_cheats_learns_one_score_and_turns_nothing_back(deployment):
    d = deployment
    d.begin(FEDERATION.format("runs = 2", 2))
    home = d.add_site("north", tiny_site("simulated:clinic"))
    d.serve(cheats=True)
    d.join("north")
    code, _, err = d.train()  # an honest run, in which its scores leave
    assert code == 0, err
    (honest,) = (home / "runs").iterdir()
    kept = {path: path.read_bytes() for path in honest.rglob("private*")}
    assert kept

    (d.folder / "attack").write_text("lies")
    code, _, err = d.train()
    assert code == 0, err
    wait_for(lambda: (d.folder / "attacked.json").exists(), 180)
    told = json.loads((d.folder / "attacked.json").read_text())
    print(told)
    refused = [SITE_FAILED]
    assert told == {
        "round 1 again": refused,
        "a round after the last": refused,
        "scores of other layers": refused,
        "scores of round 1": refused,
        "an invented run": [refused] * 2,
        "its scores": refused,
        "a second one": refused,
        "a run outside": refused,
        "400 MB": [],
    }
    assert kept == {path: path.read_bytes() for path in honest.rglob("private*")}


def test_a_site_that_cheats_does_not_own_the_model(deployment):
    d = deployment
    d.begin(FEDERATION.format("", 4))
    for name, source in (("north", "simulated:clinic"), ("south", "simulated:laboratory")):
        d.add_site(name, tiny_site(source))
    d.serve()
    d.join("north")
    d.start("site", "south", cheats=True)
    wait_for(lambda: d.connected().get("south"))
    code, _, err = d.train()
    assert code == 0, err
    run = d.run()
    rows = {(row["round"], row["site"]): row for row in run.history()}
    assert int(rows["1", "south"]["n_trials"]) == 10 * int(rows["1", "north"]["n_trials"])
    lengths = [length(run.load_common(number)) for number in range(1, 5)]
    assert max(lengths) < 10 * length(server_network(run.federation).common_state()), lengths
    assert any("is believed" in row["status"] for row in rows.values()), rows


def length(layers):
    return sum(float(values.double().square().sum()) for values in layers.values()) ** 0.5
