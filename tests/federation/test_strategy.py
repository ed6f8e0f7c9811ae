"""The server's checks, with real client apps and Flower's real strategies; only the transport is a loop."""

import csv
import errno
import tomllib
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LoopGrid, tiny_toml
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord

from data.errors import InputError
from experiments.evaluate import evaluate
from experiments.prepare import prepare_sites
from experiments.references import reference_jobs, train_references
from federation import client_app, server_app
from federation import site as site_module
from federation import strategy as strategy_module
from federation.contract import Contract, load_federation
from federation.messages import cleaned
from federation.patience import PatientGrid
from federation.register import Node, write_nodes
from federation.run_folder import RunFolder
from federation.server_app import deploy, federate
from federation.site_network import server_network
from federation.strategy import COMMON, METRICS, CheckedStrategy, RunFailed, make_strategy


def history(run):
    with (run.path / "history.csv").open() as file:
        return list(csv.DictReader(file))


def whole_state(run):
    return [run.load_common(run.last_round())] + [
        run.site(s.name).load_private(99, run.trials(s).digest())[0] for s in run.federation.site
    ]


def same(a, b):
    return all(torch.equal(x[name], y[name]) for x, y in zip(whole_state(a), whole_state(b), strict=True) for name in x)


def test_two_rounds_leave_the_files_of_the_design(make_run):
    run = make_run()
    federate(LoopGrid(run), run)
    assert [(r["round"], r["site"], r["status"]) for r in history(run)] == [
        ("1", "north", "ok"), ("1", "south", "ok"), ("2", "north", "ok"), ("2", "south", "ok"),
    ]  # fmt: skip
    assert {p.name for p in (run.path / "common").iterdir()} == {"round-0001.safetensors", "round-0002.safetensors"}
    assert run.load_common(2).keys() == {"common.0.weight", "common.0.bias"}


def test_the_average_is_weighted_by_trials_or_equal(make_run):
    for weighting, weights in (("trials", (40 / 64, 24 / 64)), ("equal", (0.5, 0.5))):
        run = make_run(weighting, contract=f'weighting = "{weighting}"', training="seed = 1")
        sent = {}

        def keep(number, site, reply, sent=sent):
            if number == 1:
                sent[site] = {k: v.numpy().copy() for k, v in reply.content[COMMON].items()}
            return reply

        federate(LoopGrid(run, keep), run)
        name = "common.0.weight"
        expected = weights[0] * sent["north"][name] + weights[1] * sent["south"][name]
        assert np.allclose(run.load_common(1)[name].numpy(), expected, atol=1e-6)
        assert history(run)[0]["n_trials"] == ("40" if weighting == "trials" else "")


def test_same_seed_same_history_byte_for_byte_whatever_the_order_of_replies(make_run):
    runs = [make_run(f"run{k}") for k in range(2)]
    federate(LoopGrid(runs[0]), runs[0])
    backwards = LoopGrid(runs[1])
    backwards.nodes = dict(reversed(list(backwards.nodes.items())))
    federate(backwards, runs[1])
    assert (runs[0].path / "history.csv").read_bytes() == (runs[1].path / "history.csv").read_bytes()
    assert same(*runs)
    other = make_run("other", training="seed = 1")
    federate(LoopGrid(other), other)
    assert (runs[0].path / "history.csv").read_bytes() != (other.path / "history.csv").read_bytes()


def test_the_average_of_three_does_not_depend_on_who_answers_first(tmp_path, prepared):
    """Floating-point sums of three depend on their order; the average is taken in the order of names."""
    text = tiny_toml()
    north = text[text.index("[[site]]") : text.index('[[site]]\nname = "south"')]
    (tmp_path / "three.toml").write_text(text + north.replace('"north"', '"west"'))
    federation = load_federation(tmp_path / "three.toml")
    averages = []
    for k, order in enumerate((("north", "south", "west"), ("west", "south", "north"), ("south", "west", "north"))):
        run = RunFolder.create(tmp_path / f"run{k}", federation, prepared, 1)

        class Ordered(LoopGrid):
            def send_and_receive(self, messages, *, timeout=None, order=order):
                replies = super().send_and_receive(messages, timeout=timeout)
                return sorted(replies, key=lambda reply: order.index(reply.content["site"]["name"]))

        federate(Ordered(run), run)
        averages.append(run.load_common(2)["common.0.weight"])
    assert torch.equal(averages[0], averages[1]) and torch.equal(averages[0], averages[2])


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam", "fedmedian"])
def test_every_strategy_goes_on_after_a_break_as_if_unbroken(make_run, strategy):
    changes = {"contract": f'strategy = "{strategy}"', "training": ""}
    unbroken, broken = make_run("unbroken", **changes), make_run("broken", **changes)
    federate(LoopGrid(unbroken), unbroken)

    def power_cut(number, site, reply):
        if number == 2 and site == "south":
            raise KeyboardInterrupt
        return reply

    with pytest.raises(KeyboardInterrupt):
        federate(LoopGrid(broken, power_cut), broken)
    assert broken.last_round() == 1
    federate(LoopGrid(broken), broken)
    assert same(unbroken, broken)
    assert all(v.dtype == torch.float32 for v in broken.load_common(2).values())


def five_toml(strategy: str) -> str:
    head, _, rest = tiny_toml(contract=f'strategy = "{strategy}"\nweighting = "equal"').partition("[[site]]")
    north = rest.partition("[[site]]")[0].replace(
        'targets = [3]\ncalibration = { runs = ["0"] }', "subjects = [SUBJECTS]"
    )
    sites = ("1", "2", "3", "1, 2", "2, 3")
    return head + "".join(
        f"[[site]]{north}".replace('"north"', f'"site-{k}"').replace("SUBJECTS", subjects)
        for k, subjects in enumerate(sites)
    )


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "fedtrimmedavg", "krum"])
def test_averages_that_bear_a_byzantine_site(tmp_path, prepared, strategy):
    (tmp_path / "five.toml").write_text(five_toml(strategy))
    run = RunFolder.create(tmp_path / strategy, load_federation(tmp_path / "five.toml"), prepared, 1)
    sent = {}

    def spoil(number, site, reply):
        layers = reply.content["common"].to_torch_state_dict()
        if site == "site-2":  # far away, but nearer than what is left out as absurd
            layers = {name: values - 0.1 for name, values in layers.items()}
            reply.content["common"] = ArrayRecord(layers)
        if number == 1:
            sent[site] = layers["common.0.weight"].numpy()
        return reply

    federate(LoopGrid(run, spoil), run)
    assert {row["status"] for row in history(run)} == {"ok"}
    stacked, found = np.sort(np.stack(list(sent.values())), axis=0), run.load_common(1)["common.0.weight"].numpy()
    if strategy == "krum":
        assert any(np.array_equal(found, values) for site, values in sent.items() if site != "site-2")
    else:
        wanted = {"fedavg": stacked.mean(0), "fedmedian": stacked[2], "fedtrimmedavg": stacked[1:4].mean(0)}[strategy]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("strategy", "away", "fewest"), [("krum", 0, 5), ("krum", 1, 5), ("fedtrimmedavg", 2, 3)])
def test_as_many_byzantine_sites_are_borne_when_others_are_away(tmp_path, prepared, strategy, away, fewest):
    """One site of five sends 50 everywhere; what is trimmed follows from who answered, not from who is registered."""
    (tmp_path / "five.toml").write_text(five_toml(strategy))
    run = RunFolder.create(tmp_path / strategy, load_federation(tmp_path / "five.toml"), prepared, 1)
    honest = []

    def spoil(number, site, reply):
        layers = reply.content["common"].to_torch_state_dict()
        if site == "site-2":
            far = {name: values - 0.1 for name, values in layers.items()}
            reply.content["common"] = ArrayRecord(far)
            return reply
        if int(site[-1]) in (3, 4)[:away]:
            return None
        honest.append(layers["common.0.weight"].numpy())
        return reply

    if 5 - away < fewest:
        with pytest.raises(RunFailed, match=f"{5 - away} sites answered well, {strategy} needs {fewest} to bear"):
            federate(LoopGrid(run, spoil), run)
        return
    federate(LoopGrid(run, spoil), run)
    average = run.load_common(1)["common.0.weight"].numpy()
    n = 5 - away - 1
    low, high = np.min(honest[:n], axis=0), np.max(honest[:n], axis=0)
    assert (average >= low - 1e-6).all() and (average <= high + 1e-6).all()  # among what honest sites sent


def test_too_few_sites_for_an_average_that_bears_byzantine_ones(tmp_path):
    for strategy, needed in (("krum", 5), ("fedtrimmedavg", 3)):
        (tmp_path / "two.toml").write_text(tiny_toml(contract=f'strategy = "{strategy}"'))
        with pytest.raises(InputError, match=f"bears n_byzantine = 1 among at least {needed} sites, there are 2"):
            load_federation(tmp_path / "two.toml")


def test_the_optimiser_of_private_layers_goes_on_between_rounds(make_run):
    run = make_run(training="local_epochs = 3")
    federate(LoopGrid(run), run)
    _, optimiser = run.site("north").load_private(2, run.trials(run.federation.site[0]).digest())
    steps = {float(value) for name, value in optimiser.items() if name.endswith("/step")}
    assert steps == {2 * 3 * 5.0} and not any(name.startswith("common.") for name in optimiser)


def nan(content):
    values = content[COMMON]["common.0.bias"].numpy().copy()
    values[3] = np.nan
    content[COMMON] = ArrayRecord({**to_numpy(content), "common.0.bias": torch.from_numpy(values)})


def shape(content):
    content[COMMON] = ArrayRecord({**to_numpy(content), "common.0.bias": torch.zeros(3)})


def extra_layer(content):
    content[COMMON] = ArrayRecord({**to_numpy(content), "heads.clinic.0.bias": torch.zeros(2)})


def extra_metric(content):
    content[METRICS] = MetricRecord({**content[METRICS], "subject-3-loss": 0.5})


def extra_record(content):
    content["labels"] = ConfigRecord({"names": ["right_hand"]})


def no_trials(content):
    content[METRICS] = MetricRecord({**content[METRICS], "num-examples": 0})


def junk(content):
    array = content[COMMON]["common.0.bias"]
    array.data = b"junk"


def wrong_type(content):
    content[COMMON] = ConfigRecord({"common.0.bias": 1.0})


def far_away(content):
    content[COMMON] = ArrayRecord({k: v * 1000 for k, v in to_numpy(content).items()})


def far_off(content):  # within the length that is believed, but another direction
    content[COMMON] = ArrayRecord({k: -8 * v for k, v in to_numpy(content).items()})


def huge_weight(content):
    content[METRICS] = MetricRecord({**content[METRICS], "num-examples": 10**12})


def list_of_losses(content):
    content[METRICS] = MetricRecord({**content[METRICS], "loss": [0.1, 0.2]})


def infinite_weight(content):
    content[METRICS] = MetricRecord({**content[METRICS], "num-examples": float("inf")})


def to_numpy(content):
    return {k: torch.from_numpy(v.numpy().copy()) for k, v in content[COMMON].items()}


def test_a_reply_far_beyond_the_others_is_left_out(make_run, monkeypatch):
    monkeypatch.setattr(strategy_module, "FAR", 5.0)
    run = make_run(contract="min_sites = 1")

    def turned(number, site, reply):
        if site == "south" and number == 2:
            far_off(reply.content)
        return reply

    federate(LoopGrid(run, turned), run)
    rows = {(r["round"], r["site"]): r for r in history(run)}
    assert {rows[number, site]["status"] for number, site in rows if (number, site) != ("2", "south")} == {"ok"}
    assert "times as far as sites do, at most 5 is believed" in rows["2", "south"]["status"]


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (nan, "layer common.0.bias holds a value that is not a finite float32"),
        (shape, "layer common.0.bias has shape (3,), expected (50,)"),
        (extra_layer, "sent other layers: ['heads.clinic.0.bias']"),
        (extra_metric, "sent what may not leave a site: ['subject-3-loss']"),
        (extra_record, "sent the records ['common', 'labels', 'metrics', 'site'], expected"),
        (no_trials, "number of trials is 0"),
        (junk, "sent what cannot be read"),
        (wrong_type, "sent what cannot be read"),
        (infinite_weight, "number of trials is inf"),
        (huge_weight, "number of trials is 1000"),
        (list_of_losses, "loss is [0.1, 0.2], expected a finite number"),
        (far_away, "sent layers 1."),
        (None, "gave no answer: it went away"),
    ],
)
def test_a_bad_reply_is_left_out_and_named(make_run, spoil, status):
    run = make_run(contract="min_sites = 1")

    def bad_south(number, site, reply):
        if site != "south" or number == 1:
            return reply
        if spoil is None:
            return None
        spoil(reply.content)
        return reply

    grid = LoopGrid(run, bad_south)
    federate(grid, run)
    rows = {(r["round"], r["site"]): r for r in history(run)}
    assert rows["2", "south"]["status"].startswith(status) and rows["2", "south"]["n_trials"] == ""
    assert rows["2", "north"]["status"] == "ok"
    alone = next(r for r in reversed(grid.replies) if r.content["site"]["name"] == "north")
    assert np.array_equal(
        run.load_common(2)["common.0.weight"].numpy(), alone.content[COMMON]["common.0.weight"].numpy()
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.__setitem__("x" * 10**6 + "\n\x1b[2J", ConfigRecord({})),
        lambda content: content.__setitem__(METRICS, MetricRecord({**content[METRICS], "y" * 10**6: 1.0})),
        lambda content: content.__setitem__(COMMON, ArrayRecord({"z\r" * 10**6: torch.zeros(1)})),
    ],
)
def test_a_site_s_words_are_cut_and_cleaned_before_they_are_kept(make_run, spoil):
    """A name of a million characters stood in history.csv, which no CSV reader takes back: the run could not go on."""
    run = make_run(contract="min_sites = 1")

    def wordy_south(number, site, reply):
        if site == "south":
            spoil(reply.content)
        return reply

    federate(LoopGrid(run, wordy_south), run)
    rows = [row for row in history(run) if row["site"] == "south"]
    assert len(rows) == 2 and all(len(row["status"]) <= 200 and row["status"].isprintable() for row in rows)
    again = RunFolder(run.path)
    assert again.last_round() == 2
    federate(LoopGrid(again), again)  # goes on, with nothing left to do


def test_a_run_in_which_too_few_sites_answer_fails_and_says_who(make_run, copied_store):
    run = make_run(store=copied_store)
    next(copied_store.glob("clinic-*/sub-2.npy")).write_bytes(b"half")
    with pytest.raises(RunFailed, match=r"round 1: 1 of 2 sites answered well, min_sites is 2 \(north: failed; its"):
        federate(LoopGrid(run), run)
    site = run.path / "sites" / "north"
    assert "sub-2.npy: damaged" in (site / "failure.txt").read_text() and run.last_round() == 0
    assert (
        (site / "log.txt")
        .read_text()
        .endswith("site north round 1: failed with InputError; failure.txt beside this log says why\n")
    )


def test_a_sites_exception_stays_at_the_site(make_run, monkeypatch):
    """Flower would send an exception's text to the server; the site sends a code and its own name."""

    def leak(*_, **__):
        raise RuntimeError("subject 007 has no rest trial")

    monkeypatch.setattr("federation.client_app.train_round", leak)
    run = make_run()
    grid = LoopGrid(run)
    with pytest.raises(RunFailed):
        federate(grid, run)
    assert sorted((r.error.code, r.error.reason) for r in grid.replies) == [
        (1001, "site 'north' failed; its own log says why"),
        (1001, "site 'south' failed; its own log says why"),
    ]
    assert "subject 007" in (run.path / "sites" / "north" / "failure.txt").read_text()
    assert "subject" not in (run.path / "sites" / "north" / "log.txt").read_text()  # logs travel


def test_a_site_refuses_another_contract(make_run):
    run, other = make_run(), make_run("other", contract="width = 20")
    grid = LoopGrid(run)
    grid.run = other
    with pytest.raises(RunFailed, match=r"0 of 2 sites answered well.*north: holds another contract; send it the inv"):
        federate(grid, run)
    assert "another contract" in (other.path / "sites" / "north" / "log.txt").read_text()


def test_metrics_that_a_site_keeps_to_itself_do_not_leave(make_run):
    run, left = make_run(north="metrics = []"), {}

    def look(number, site, reply):
        left[number, site] = set(reply.content[METRICS])
        return reply

    federate(LoopGrid(run, look), run)
    assert left[1, "north"] == {"num-examples"}
    assert left[1, "south"] == {"num-examples", "loss", "accuracy", "seconds"}
    assert history(run)[0]["loss"] == "" and history(run)[1]["loss"] != ""


def test_sharing_nothing_sends_no_layer(make_run):
    run = make_run(contract='share = "none"')
    grid = LoopGrid(run)
    federate(grid, run)
    assert all(len(m.content[COMMON]) == 0 for m in [*grid.sent, *grid.replies]) and run.last_round() == 2


def test_a_branch_for_each_subject_trains_and_is_scored(make_run):
    run = make_run(north='branch_by = "subject"', training="mmd = 0.5")
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    assert len(evaluate(run)) == 9
    names = whole_state(run)[1]
    assert {f"heads.of-clinic-{k}.0.bias" for k in (1, 2, 3)} <= names.keys()


def test_sharing_all_sends_no_buffer(make_run, tmp_path):
    """With one channel list and one label list: what leaves are parameters, never batch norm's running averages."""
    path = tmp_path / "all.toml"
    agreed = 'share = "all"\nchannels = ["C4", "C3"]\nlabels = ["left_hand", "right_hand", "rest"]'
    path.write_text(tiny_toml(agreed))
    federation = load_federation(path)
    prepare_sites(federation, tmp_path / "store")
    run = RunFolder.create(tmp_path / "all", federation, tmp_path / "store", 1)
    grid = LoopGrid(run)
    federate(grid, run)
    names = set(grid.replies[0].content[COMMON])
    assert {"extractors.shared.filters.spatial", "heads.shared.0.weight", "common.0.weight"} <= names
    assert not any("running" in name or "num_batches" in name for name in names)
    assert run.last_round() == 2


def test_too_few_sites_connected_ends_the_run(make_run):
    run = make_run(contract="deadline = 0.1")
    grid = LoopGrid(run)
    grid.nodes.popitem()
    with pytest.raises(RunFailed, match=r"1 sites are connected after 0.1 s, min_sites is 2"):
        federate(grid, run)


def test_a_full_disk_fails_that_round_there_and_corrupts_nothing(make_run, monkeypatch):
    """As the kernel says it, in the middle of writing the private layers of round 2."""
    path = make_run(contract="min_sites = 1", training="local_epochs = 1").path
    document = path / "federation.toml"
    document.write_text(document.read_text().replace("rounds = 2", "rounds = 3"))
    run = RunFolder(path)
    real, state = site_module.replaced, run.path / "sites" / "north" / "private.safetensors"
    rounds, kept = [], []

    @contextmanager
    def full(path):
        if path == state and len(rounds) == 1:
            kept.append(state.with_name("private-before.safetensors").read_bytes())
            with real(path) as out:
                out.write(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
        with real(path) as out:
            yield out

    def count(number, site, reply):
        if site == "north":
            rounds.append(number)
        return reply

    monkeypatch.setattr(site_module, "replaced", full)
    federate(LoopGrid(run, count), run)
    status = {(r["round"], r["site"]): r["status"] for r in history(run)}
    assert [status[number, "north"] for number in "123"] == ["ok", "failed; its own log says why", "ok"]
    assert all(status[number, "south"] == "ok" for number in "123")
    log = (state.parent / "log.txt").read_text()
    assert "round 2: failed with OSError" in log and "round 3: trains on, private layers of round 1" in log
    assert kept and not list(state.parent.glob(".private*"))
    assert run.site("north").failure() is None  # forgotten when the next round went well


def test_in_a_deployment_a_name_is_bound_to_its_key(make_run, tmp_path):
    run = make_run(contract="min_sites = 1")
    nodes = {100: Node("north", True, ""), 101: Node("west", True, "")}
    write_nodes(tmp_path / "nodes.json", nodes)
    deploy(LoopGrid(run), run, tmp_path / "nodes.json")
    status = {(r["round"], r["site"]): r["status"] for r in history(run)}
    assert status["1", "north"] == "ok" and status["1", "south"] == "was not connected"
    assert status["1", "west"] == "gives itself another name than its key is registered for"


def test_the_last_layers_reach_the_sites_and_allowed_scores_come_back(make_run, tmp_path):
    run = make_run(north='scores = ["balanced_accuracy"]')
    write_nodes(tmp_path / "nodes.json", {100: Node("north", True, ""), 101: Node("south", True, "")})
    grid = LoopGrid(run)
    deploy(grid, run, tmp_path / "nodes.json")
    with (run.path / "site-scores.csv").open() as file:
        rows = {row["site"]: row for row in csv.DictReader(file)}
    assert rows["north"]["n_targets"] == "1" and 0 <= float(rows["north"]["balanced_accuracy"]) <= 1
    assert rows["south"] == {"site": "south", "status": "ok", "n_targets": "", "balanced_accuracy": ""}
    (mf_scsn,) = (s for s in _scores(run) if (s.site, s.method) == ("north", "mf-scsn"))
    assert np.isclose(mf_scsn.balanced_accuracy, float(rows["north"]["balanced_accuracy"]))


def _scores(run):
    train_references(run, reference_jobs(run), lambda done, total: None)
    return evaluate(run)


def test_a_round_with_too_few_answers_is_tried_again_in_a_deployment(make_run, tmp_path):
    write_nodes(tmp_path / "nodes.json", {100: Node("north", True, ""), 101: Node("south", True, "")})
    for lost, ends_well in ((2, True), (3, False)):
        run, silent = make_run(f"lost-{lost}"), []

        def spoil(number, site, reply, silent=silent, lost=lost):
            if number == 2 and site == "south" and len(silent) < lost:
                silent.append(number)
                return None
            return reply

        if ends_well:
            deploy(LoopGrid(run, spoil), run, tmp_path / "nodes.json")
            whole = make_run("whole")
            federate(LoopGrid(whole), whole)
            assert same(run, whole) and [r["status"] for r in history(run)] == ["ok"] * 4
        else:
            with pytest.raises(RunFailed, match="round 2: 1 of 2 sites answered well"):
                deploy(LoopGrid(run, spoil), run, tmp_path / "nodes.json")
            assert run.last_round() == 1


def test_a_server_cannot_try_other_layers_on_a_sites_test_trials(make_run, tmp_path):
    run = make_run(north='scores = ["balanced_accuracy"]')
    nodes = tmp_path / "nodes.json"
    write_nodes(nodes, {100: Node("north", True, ""), 101: Node("south", True, "")})
    deploy(LoopGrid(run), run, nodes)
    before = (run.path / "site-scores.csv").read_bytes()
    layers = run.load_common(2)
    for tried, answered in ((layers, True), ({name: -value for name, value in layers.items()}, False)):
        grid = LoopGrid(run)
        make_strategy(run.federation.contract, run, 3, nodes).finish(grid, ArrayRecord(tried), 10.0)
        assert all(reply.has_content() == answered for reply in grid.replies) and len(grid.replies) == 2
        assert (run.path / "site-scores.csv").read_bytes() == before  # what was let out before still counts
    assert run.site("north").failure() == "the server asks for the scores of other layers"


def test_one_site_does_not_own_the_model_by_its_weight(make_run):
    """The attack: a site says that it has ten million trials, and sends layers of its choice."""
    run = make_run(contract='min_sites = 1\nweighting = "trials"')
    told = {}

    def boast(number, site, reply):
        if site == "south":
            reply.content[METRICS] = MetricRecord({**reply.content[METRICS], "num-examples": 9_999_999})
        else:
            told[number] = reply.content[METRICS]["num-examples"]
        return reply

    federate(LoopGrid(run, boast), run)
    rows = {(row["round"], row["site"]): int(row["n_trials"]) for row in history(run)}
    assert rows["1", "north"] == told[1] and rows["1", "south"] == 10 * told[1]


def test_one_site_does_not_make_the_layers_longer_round_after_round(tmp_path, prepared):
    """The attack: each round nine times the layers that were sent, until private layers at the others are infinite."""
    (tmp_path / "six.toml").write_text(tiny_toml(contract="min_sites = 1").replace("rounds = 2", "rounds = 6"))
    run = RunFolder.create(tmp_path / "six", load_federation(tmp_path / "six.toml"), prepared, 1)
    start = sum(float(v.square().sum()) for v in server_network(run.federation).common_state().values()) ** 0.5
    lengths = []

    def grow(number, site, reply):
        if site == "south":
            reply.content[COMMON] = ArrayRecord({k: 9 * v for k, v in to_numpy(reply.content).items()})
        return reply

    federate(LoopGrid(run, grow), run)
    for number in range(1, 7):
        lengths.append(sum(float(v.square().sum()) for v in run.load_common(number).values()) ** 0.5)
    assert max(lengths) < 10 * start
    assert "believed" in next(row["status"] for row in history(run) if row["site"] == "south" and row["round"] == "6")


def test_a_site_does_not_go_back_in_a_run(make_run):
    """The attack: the server sends round 1 again, and the private layers of newer rounds were written over."""
    run = make_run()
    federate(LoopGrid(run), run)
    kept = {path: path.read_bytes() for path in run.path.glob("sites/*/private*")}
    (run.path / "common" / "round-0002.safetensors").unlink()
    (run.path / "common" / "round-0001.safetensors").unlink()
    with pytest.raises(RunFailed, match="0 of 2 sites answered well"):
        federate(LoopGrid(run), run)
    assert "goes back to round 1, but this site has trained round 2" in run.site("north").failure()
    assert kept == {path: path.read_bytes() for path in run.path.glob("sites/*/private*")}


@pytest.mark.parametrize("strategy", ["krum", "fedtrimmedavg"])
def test_a_reply_that_was_left_out_need_not_be_borne_again(tmp_path, prepared, strategy):
    """The attack: one site of five sends layers that nobody takes; Krum needs five replies, and ended the run."""
    (tmp_path / "five.toml").write_text(five_toml(strategy))
    run = RunFolder.create(tmp_path / strategy, load_federation(tmp_path / "five.toml"), prepared, 1)

    def absurd(number, site, reply):
        if site == "site-2":
            far_away(reply.content)
        return reply

    federate(LoopGrid(run, absurd), run)
    assert {row["site"] for row in history(run) if row["status"] != "ok"} == {"site-2"}


def test_words_of_others_are_one_line():
    assert cleaned("a\n\x1b[2Jb") == "a??[2Jb" and len(cleaned("y" * 10**6)) <= 200


def test_how_far_sites_move_is_measured_over_rounds_too(make_run, monkeypatch):
    """In round 2 the far one is alone, so that its own length would be the median."""
    monkeypatch.setattr(strategy_module, "FAR", 5)
    run = make_run(contract="min_sites = 1")

    def far_and_alone(number, site, reply):
        if number == 2:
            if site == "north":
                return None
            far_off(reply.content)
        return reply

    with pytest.raises(RunFailed, match="times as far as sites do"):
        federate(LoopGrid(run, far_and_alone), run)
    assert run.last_round() == 1


def test_an_average_that_is_not_finite_is_not_kept(make_run, monkeypatch):
    def spoilt(self, number, replies):
        layers = replies[0].content[COMMON].to_torch_state_dict()
        return ArrayRecord({name: torch.full_like(values, torch.nan) for name, values in layers.items()}), None

    monkeypatch.setattr(strategy_module.FedAvg, "aggregate_train", spoilt)
    run = make_run()
    with pytest.raises(RunFailed, match="the average of layer"):
        federate(LoopGrid(run), run)
    assert run.last_round() == 0


def test_layers_that_are_not_finite_are_neither_taken_nor_sent(make_run, monkeypatch, tmp_path):
    run, nodes = make_run(), tmp_path / "nodes.json"
    write_nodes(nodes, {100: Node("north", True, ""), 101: Node("south", True, "")})
    federate(LoopGrid(run), run)
    grid = LoopGrid(run)
    spoilt = {name: torch.full_like(values, torch.inf) for name, values in run.load_common(2).items()}
    make_strategy(run.federation.contract, run, 3, nodes).finish(grid, ArrayRecord(spoilt), 10.0)
    assert len(grid.replies) == 2 and not any(reply.has_content() for reply in grid.replies)
    assert "not finite" in run.site("north").failure()
    plain = client_app.train_round

    def exploding(network, *words, **options):
        told = plain(network, *words, **options)
        network.load_common({k: torch.full_like(v, torch.inf) for k, v in network.common_state().items()})
        return told

    monkeypatch.setattr(client_app, "train_round", exploding)
    other = make_run("other")
    grid = LoopGrid(other)
    with pytest.raises(RunFailed):
        federate(grid, other)
    assert not any(reply.has_content() for reply in grid.replies) and "not finite" in other.site("north").failure()


def test_scores_leave_after_the_last_round_alone(make_run, tmp_path):
    run, nodes = make_run(north='scores = ["balanced_accuracy"]'), tmp_path / "nodes.json"
    write_nodes(nodes, {100: Node("north", True, ""), 101: Node("south", True, "")})
    federate(LoopGrid(run), run)
    grid = LoopGrid(run)
    send = grid.send_and_receive

    def earlier(messages, *, timeout=None):
        for message in messages:
            message.content["config"]["server-round"] = 1
        return send(messages, timeout=timeout)

    grid.send_and_receive = earlier
    make_strategy(run.federation.contract, run, 3, nodes).finish(grid, ArrayRecord(run.load_common(2)), 10.0)
    assert len(grid.replies) == 2 and not any(reply.has_content() for reply in grid.replies)
    assert "they leave after the last round" in run.site("north").failure()


def test_a_site_at_home_lets_scores_of_one_run_out_under_a_contract(make_run, tmp_path, monkeypatch):
    nodes, evaluate = tmp_path / "nodes.json", client_app._evaluate
    write_nodes(nodes, {100: Node("north", True, ""), 101: Node("south", True, "")})

    def at_home(message, context, *words):
        context.node_config["site"] = str(tmp_path)  # where its audit log lies
        return evaluate(message, context, *words)

    monkeypatch.setattr(client_app, "_evaluate", at_home)
    for name, lets in (("first", True), ("second", False)):
        home = SimpleNamespace(lets_scores_out=lambda *words, lets=lets: lets)
        monkeypatch.setattr(client_app, "SiteHome", lambda path, home=home: home)
        run = make_run(name, north='scores = ["balanced_accuracy"]')
        deploy(LoopGrid(run), run, nodes)
        with (run.path / "site-scores.csv").open() as file:
            rows = {row["site"]: row for row in csv.DictReader(file)}
        assert (rows["north"]["n_targets"], rows["north"]["status"]) == ("1" if lets else "", "ok")


def test_a_deployment_waits_as_long_as_is_worth_it_and_a_simulation_for_all(make_run, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(server_app, "deploy", lambda grid, run, nodes: given.update(deployed=grid))
    monkeypatch.setattr(server_app, "federate", lambda grid, run: given.update(simulated=grid))
    run, grid = make_run(), object()
    monkeypatch.setattr(server_app, "open_run", lambda context: run)
    for nodes in ("nodes.json", ""):
        server_app.main(grid, SimpleNamespace(run_config={"nodes": nodes}))
    assert given["simulated"] is grid and isinstance(given["deployed"], PatientGrid)
    assert given["deployed"].fewest(9) == run.federation.min_sites


class _Judge(CheckedStrategy):
    """As much of a strategy as tells who is far."""

    def __init__(self, start_norm, lengths=()):
        self.start_norm, self.lengths = start_norm, deque(lengths)

    def judge(self, **lengths):
        good = {site: SimpleNamespace(content=SimpleNamespace(array_records={COMMON: length}))
                for site, length in lengths.items()}  # fmt: skip
        status = dict.fromkeys(good, "ok")
        n_out = self._leave_out_far(good, status)
        assert n_out == len(lengths) - len(good)
        return set(good)

    def _length(self, arrays):
        return arrays


@pytest.mark.parametrize(
    ("start_norm", "before", "lengths", "stay"),
    [
        (10.0, [], {"a": 0.0, "b": 0.0}, {"a", "b"}),  # nobody moved: a division by zero once
        (10.0, [], {"a": 0.0, "b": 3.0}, {"a", "b"}),  # of two, neither is far
        (10.0, [], {"a": 1e-6, "b": 3.0}, {"a", "b"}),  # the smaller half had decided
        (10.0, [], {"a": 0.01, "b": 3.0}, {"a", "b"}),
        (10.0, [], {"a": 1e-6, "b": 1e-6, "c": 3.0}, {"a", "b", "c"}),  # who does not move has no say
        (10.0, [], {"a": 0.01, "b": 0.01, "c": 3.0}, {"a", "b"}),  # most sites say what is far
        (10.0, [1.0, 1.0], {"a": 400.0}, set()),  # and those of the rounds before
        (10.0, [], {"a": 1e-4, "b": 1e-4, "c": 0.09}, {"a", "b", "c"}),  # no further than is always believed
        (0.0, [], {"a": 0.0, "b": 0.0, "c": 1.5}, {"a", "b", "c"}),  # means of persons with one label are zero
        (0.0, [], {"a": 1.0, "b": 1.2, "c": 500.0}, {"a", "b"}),
    ],
)
def test_who_is_far_is_what_most_of_those_that_moved_say(start_norm, before, lengths, stay):
    assert _Judge(start_norm, before).judge(**lengths) == stay


@pytest.mark.parametrize(
    ("contract", "n_asked", "fewest"),
    [
        ("", 9, 2),
        ('strategy = "krum"', 9, 5),
        ('strategy = "fedtrimmedavg"', 9, 3),
        ("secure_aggregation = true", 10, 7),
    ],
)
def test_a_round_waits_for_as_many_as_its_strategy_needs(make_run, contract, n_asked, fewest):
    federation = make_run().federation
    table = Contract(**{**federation.contract.model_dump(exclude_none=True), **tomllib.loads(contract)})
    assert server_app.fewest_good(federation.model_copy(update={"contract": table}), n_asked) == fewest
