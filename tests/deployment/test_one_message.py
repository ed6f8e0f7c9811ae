"""One message a site over TLS: the pooled solution, masked on the wire, without one that drops out or is forgotten."""

import re
import time

import numpy as np
import pytest
from conftest import mfscsn
from deployment.harness import Deployment, kill, wait_for, whole_federation
from deployment.recorder import Recorder, messages_of
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from scipy.stats import chisquare

from experiments.prepare import prepare_sites
from federation.contract import load_federation
from federation.plain_loop import train_together

NAMES = ["east", "middle", "north", "south", "west"]
TASKS = {"east": ["left_hand", "right_hand"], "middle": ["right_hand", "rest"], "north": ["right_hand", "rest"],
         "south": ["left_hand", "rest"], "west": ["left_hand", "right_hand"]}  # fmt: skip
FEDERATION = """
name = "sums"
runs = 5
[contract]
strategy = "one-message"
electrodes = ["C3", "Cz", "C4"]
labels = ["left_hand", "right_hand", "rest"]
min_sites = 4
deadline = 60.0
"""


def table(name):
    source = "simulated:clinic" if "rest" in TASKS[name] and "left_hand" not in TASKS[name] else "simulated:laboratory"
    dataset = {
        "source": source,
        "options": {"n_subjects": 3, "n_runs": 2, "n_trials": 6, "montage": ["C3", "Cz", "C4", "CP1"],
                    "trial_length": 4.0},
        "tasks": TASKS[name],
    }  # fmt: skip
    return {"dataset": [dataset]}


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("sums"))
    made.begin(FEDERATION)
    door = Recorder(made.server, made.port)  # it writes down what a site sends
    for name in NAMES:
        home = made.add_site(name, table(name), check=False)
        if name == "east":
            path = home / "invitation.toml"
            path.write_text(path.read_text().replace(f"127.0.0.1:{made.port}", f"127.0.0.1:{door.port}"))
        code, out, err = mfscsn("site", "check", home, "--offline", cwd=made.folder)
        assert code == 0, out + err
    made.serve()
    made.join(*NAMES)
    yield made, door
    made.end()
    door.close()


def pooled(deployment, names):
    """The trials of these sites in one place, without masks, servers or rounding."""
    path = whole_federation(deployment, names)
    text = re.sub("min_sites = .*", "min_sites = 1", path.read_text())
    path.write_text(text.replace("secure_aggregation = true", "secure_aggregation = false"))
    federation = prepare_sites(load_federation(path), deployment.folder / "store")
    networks, _ = train_together(federation, deployment.folder / "store")
    return networks[names[0]]


def apart(network, layers):
    """How far the solution from other sums is from a network's own, over its norm."""
    (branch,) = network.branches
    wanted, _ = network.solution(branch)
    network.load_common(layers)
    return float((network.solution(branch)[0] - wanted).norm() / wanted.norm())


def test_over_tls_it_is_the_pooled_solution_of_those_that_are_there(five):
    deployment, door = five
    following = deployment.train_beside()
    wait_for(lambda: deployment.said("west").count("answered a message") == 2, 120)
    time.sleep(0.5)  # it asks for its next message every three seconds
    kill(deployment.running.pop("west"))  # it has shared its secrets, and is waited for
    out, err = following.communicate(timeout=400)
    assert following.returncode == 0, out + err
    first = deployment.run()
    assert {row["site"] for row in first.history() if row["status"] == "ok"} == {*NAMES} - {"west"}
    assert apart(pooled(deployment, NAMES[:-1]), first.load_common(1)) < 1e-6
    check_masked(door.record)


def test_a_site_that_has_left_is_forgotten_by_a_fresh_sum(five):
    deployment, _ = five
    deployment.join("west")
    began = time.monotonic()
    code, out, err = deployment.train()
    print(f"one message of five sites: {time.monotonic() - began:.1f} s")
    assert code == 0, out + err
    whole = deployment.run()
    assert apart(pooled(deployment, NAMES), whole.load_common(1)) < 1e-6

    for words in ("remove-site", "forget-site"):
        code, out, err = mfscsn("server", words, deployment.server, "west", cwd=deployment.folder)
        assert code == 0, err
    assert whole.path.name in out and not list(whole.path.glob("common/*"))
    code, out, err = deployment.train()
    assert code == 0, out + err
    assert apart(pooled(deployment, NAMES[:-1]), deployment.run().load_common(1)) < 1e-6
    for name in NAMES[:-1]:  # and of all the sums that there were, each site has the last one alone
        assert len(list((deployment.folder / name).glob("runs/*/common/round-*"))) == 1


def check_masked(record):
    """Of all that one site has sent, what is long is a masked vector, and what is short no number of its trials."""
    messages = messages_of(record, whole=False)
    masked = [message for message in messages if _size(message)]
    assert masked and len([body for _, body in record if len(body) > 8000]) == len(masked)
    for message in masked:
        parts = message.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        numbers = np.concatenate([bytes_to_ndarray(part).ravel() for part in parts])
        assert numbers.size > 900 and (numbers >= 0).all() and (numbers < 2**62).all()
        assert chisquare(np.bincount(numbers >> 58, minlength=16)).pvalue > 1e-5
    for message in messages:
        assert set(message.content) in ({RECORD_KEY_CONFIGS, "site"}, {"metrics", "site"})
        if "metrics" in message.content:
            assert not dict(message.content.metric_records["metrics"])


def _size(message):
    parts = dict(message.content.config_records.get(RECORD_KEY_CONFIGS, {})).get(Key.MASKED_PARAMETERS, [])
    return sum(len(part) for part in parts)
