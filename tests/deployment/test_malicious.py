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
    (d.folder / "attack").write_text("lies")
    code, _, err = d.train()  # honest to its last round, after which the scores leave
    assert code == 0, err
    told = json.loads((d.folder / "attacked.json").read_text())
    first, second = told.pop("an invented run")  # one more was announced: it is trained, but its scores stay
    assert set(first) == set(second) == {"num-examples", "loss", "accuracy", "seconds"}
    assert told.pop("its scores") == {} and told.pop("100 MB") is None
    why = {
        "round 1 again": "the server goes back to round 1, but this site has trained round 2",
        "a round after the last": "the server asks for round 3, this run has 1 to 2",
        "scores of other layers": "the server asks for the scores of other layers",
        "scores of round 1": "they leave after the last round",
        "a second one": "the server begins another run, but this site has taken part in 2 under this contract",
        "a run outside": "the server named no run that can be one",
    }
    assert {name: code for name, (code, _) in told.items()} == dict.fromkeys(why, SITE_FAILED)
    for name, (_, words) in told.items():
        assert why[name] in words, (name, words)
    assert "scores of another run under this contract have left" in d.said("north")
    assert "bytes for one message; the contract needs no more" in (home / "flower" / "supernode.log").read_text()
    kept = [path.relative_to(d.folder / "before") for path in (d.folder / "before").rglob("private*")]
    assert len(kept) > 1
    assert all((home / "runs" / path).read_bytes() == (d.folder / "before" / path).read_bytes() for path in kept)


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
