"""Secure aggregation: Flower's protocol with our masks, against plain averaging, drop-outs, and a server that pries."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LoopGrid, federation_of, tiny_toml
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage
from scipy.stats import chisquare

from data.errors import InputError
from federation import client_app
from federation.contract import Contract
from federation.privacy import secagg
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site import AlreadySummed
from federation.site_home import SiteHome
from federation.site_network import server_network
from federation.strategy import RunFailed

FOUR = """
name = "four"

[contract]
window = [0.5, 2.5]
min_sites = 3
secure_aggregation = true
{contract}

[training]
rounds = 2
batch_size = 8
fine_tune = 0
""" + "".join(
    f"""
[[site]]
name = "site-{k}"
[[site.dataset]]
source = "simulated:clinic"
options = {{{{ n_subjects = 3, n_runs = 2, n_trials = 4, montage = ["C3", "Cz", "C4", "FC1"], trial_length = 3.0 }}}}
tasks = ["right_hand", "rest"]
subjects = {subjects}
"""
    for k, subjects in enumerate(([1], [2], [3], [1, 2]))
)


def stage_of(message):
    records = message.content.config_records
    return records[RECORD_KEY_CONFIGS][Key.STAGE] if RECORD_KEY_CONFIGS in records else None


class Sites(LoopGrid):
    """The sites of a run in this process; `drop` says which of them give no answer, or fail, in which stage."""

    def __init__(self, run, drop=lambda number, stage, site: None):
        super().__init__(run)
        self.drop, self.up = drop, []

    def send_and_receive(self, messages, *, timeout=None):
        kept = []
        for message in messages:
            stage, site = stage_of(message), self.nodes[message.metadata.dst_node_id]
            number = message.content["config"]["server-round"]
            how = self.drop(number, stage, site)
            if how == "silent":
                continue
            if how == "raises":
                message.metadata.__dict__["_message_id"] = "x"
                kept.append(Message(Error(1001, f"site 'site-{site}' failed"), reply_to=message))
                continue
            reply = super().send_and_receive([message])[0]
            self.up.append((stage, RecordDict(dict(reply.content)) if reply.has_content() else None))  # as it was sent
            kept.append(reply)
        return kept


@pytest.fixture
def four(tmp_path, prepared):
    def make(name="run", contract="", **replaced):
        text = FOUR.format(contract=contract)
        for old, new in replaced.values():
            text = text.replace(old, new)
        return RunFolder.create(tmp_path / name, federation_of(text, tmp_path), prepared, 1)

    return make


def test_key_stream_is_that_of_rfc_8439():
    """Appendix A.1, test vectors 1 and 2: key and nonce of zeros, blocks 0 and 1."""
    stream = secagg.key_stream(bytes(32), 128)
    assert stream[:32].hex() == "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert stream[64:96].hex() == "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"


def test_a_mask_depends_on_every_bit_of_its_seed_and_is_uniform():
    """Flower's generator folds a seed to 32 bits by XOR of its words; two seeds that fold alike give two masks here."""
    seed = bytes(range(32))
    alike = seed[4:8] + seed[:4] + seed[8:]
    masks = [secagg.stream_mask(s, 2**32, [(1,), (200, 500)]) for s in (seed, seed, alike)]
    assert [m.shape for m in masks[0]] == [(1,), (200, 500)] and masks[0][1].dtype == np.int64
    assert np.array_equal(masks[0][1], masks[1][1]) and not np.array_equal(masks[0][1], masks[2][1])
    counts = np.bincount((masks[0][1] >> 24).ravel(), minlength=256)
    assert chisquare(counts).pvalue > 1e-4
    for flipped in (bytes([1, *seed[1:]]), bytes([*seed[:-1], 1])):
        other = secagg.stream_mask(flipped, 2**32, [(1,), (200, 500)])[1]
        assert abs((((other ^ masks[0][1]) & 1) == 1).mean() - 0.5) < 0.01


def test_both_ends_of_flowers_protocol_use_our_masks_and_a_seed_of_32_bytes(four, monkeypatch):
    seeds = []
    plain = secagg.stream_mask
    monkeypatch.setattr(secagg, "stream_mask", lambda seed, *words: seeds.append(seed) or plain(seed, *words))

    def weak(*words):
        raise AssertionError("Flower's own generator")

    for module in (secagg.at_site, import_module("flwr.server.workflow.secure_aggregation.secaggplus_workflow")):
        monkeypatch.setattr(module, "pseudo_rand_gen", weak)
    run = four()
    federate(Sites(run), run)
    assert seeds and all(len(seed) >= 32 for seed in seeds)
    pairwise = [seed for seed in seeds if len(seed) == 44]  # base64 of 32 bytes of a key exchange
    assert len(set(pairwise)) == 2 * 6 and len(set(seeds) - set(pairwise)) == 2 * 4  # of two rounds: pairs, and own


@pytest.mark.parametrize("weighting", ["trials", "equal"])
def test_the_mean_is_the_plain_one_within_the_error_that_is_shown(four, weighting):
    runs = []
    for name, secure in (("secure", "true"), ("plain", "false")):
        run = four(
            name, f'weighting = "{weighting}"', a=("secure_aggregation = true", f"secure_aggregation = {secure}")
        )
        federate(Sites(run), run)
        runs.append(run)
    bound = runs[0].secure_aggregation()["error"]
    assert 0 < bound < (1e-6 if weighting == "equal" else 1e-3) and runs[1].secure_aggregation() is None
    first = [run.load_common(1) for run in runs]
    far = max(float((first[0][name] - first[1][name]).abs().max()) for name in first[0])
    assert 0 < far <= bound + 1e-7
    assert [row["status"] for row in runs[0].history()] == ["ok"] * 8
    assert all(row["n_trials"] == "" for row in runs[0].history())


def test_what_the_server_receives_of_one_site_is_uniform_and_says_nothing_else(four):
    run = four()
    grid = Sites(run)
    federate(grid, run)
    masked = []
    for stage, content in grid.up:
        assert set(content) == {RECORD_KEY_CONFIGS, "site"} and set(content["site"]) == {"name"}
        assert not content.array_records and not content.metric_records
        keys = set(content[RECORD_KEY_CONFIGS])
        assert (
            keys
            == {
                Stage.SETUP: {Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2},
                Stage.SHARE_KEYS: {Key.DESTINATION_LIST, Key.CIPHERTEXT_LIST},
                Stage.COLLECT_MASKED_VECTORS: {Key.MASKED_PARAMETERS},
                Stage.UNMASK: {Key.NODE_ID_LIST, Key.SHARE_LIST},
            }[stage]
        )
        if stage == Stage.COLLECT_MASKED_VECTORS:
            _, vector = (bytes_to_ndarray(b) for b in content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS])
            masked.append(vector)
    assert len(masked) == 8
    for vector in masked:
        assert chisquare(np.bincount(vector >> 26, minlength=64)).pvalue > 1e-5
    change = secagg.flat(run.load_common(1)) - secagg.flat(run.load_common(2))
    assert all(abs(np.corrcoef(vector, change)[0, 1]) < 0.1 for vector in masked)


def test_the_secrets_are_gone_after_the_round(four, monkeypatch):
    held, plain = [], secagg.answer_stage

    def answered(message, context, *words):
        stage = stage_of(message)
        content = plain(message, context, *words)
        held.append((stage, RECORD_KEY_STATE in context.state))
        return content

    monkeypatch.setattr(secagg, "answer_stage", answered)
    run = four()
    federate(Sites(run), run)
    assert len(held) == 2 * 4 * 4 and all(secrets == (stage != Stage.UNMASK) for stage, secrets in held)


@pytest.mark.parametrize("how", ["silent", "raises"])
@pytest.mark.parametrize("stage", [Stage.SETUP, Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK])
def test_one_of_four_drops_out_and_the_rest_is_their_mean(four, stage, how):
    run, plain = four(), four("plain", a=("secure_aggregation = true", "secure_aggregation = false"))
    federate(Sites(run, lambda number, at, site: how if (number, at, site) == (1, stage, 2) else None), run)
    # A site that is gone when the sum is uncovered has sent its update before
    away = None if stage == Stage.UNMASK else how
    federate(Sites(plain, lambda number, at, site: away if (number, site) == (1, 2) else None), plain)
    first, bound = (run.load_common(1), plain.load_common(1)), run.secure_aggregation()["error"]
    for name in first[0]:
        torch.testing.assert_close(first[0][name], first[1][name], rtol=0, atol=bound + 1e-7)
    assert {r["site"]: r["status"] == "ok" for r in run.history() if r["round"] == "1"} == {
        f"site-{k}": k != 2 or stage == Stage.UNMASK for k in range(4)
    }
    assert {r["status"] for r in run.history() if r["round"] == "2"} == {"ok"}


@pytest.mark.parametrize("stage", [Stage.SETUP, Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK])
def test_two_of_four_drop_out_and_the_run_ends_clearly(four, stage):
    run = four()
    with pytest.raises(RunFailed, match=r"secure aggregation: 2 of 4 sites .*, at least 3 must; nothing of this round"):
        federate(Sites(run, lambda number, at, site: "silent" if at == stage and site > 1 else None), run)
    assert run.last_round() == 0


def test_with_fewer_sites_than_min_sites_nothing_is_uncovered(four):
    """The attack: the sum of three is uncovered, the round is repeated alike with four, and the difference is one's."""
    run = four(a=("min_sites = 3", "min_sites = 4"))
    grid = Sites(run, lambda number, at, site: "silent" if (at, site) == (Stage.COLLECT_MASKED_VECTORS, 3) else None)
    with pytest.raises(RunFailed, match="3 of 4 sites sent a masked update, min_sites is 4; nothing of this round was"):
        federate(grid, run)
    assert Stage.UNMASK not in [stage for stage, _ in grid.up]


def test_a_second_sum_of_a_round_over_other_sites_is_refused_at_the_sites(four):
    """The attack by a server that lost its newest round, or says so: once with all four, once without one of them."""
    run = four()
    federate(Sites(run), run)
    before, bound = run.load_common(2), run.secure_aggregation()["error"]
    (run.path / "common" / "round-0002.safetensors").unlink()
    federate(Sites(run), run)  # a backup of the server that was put back: the same sum tells nothing new
    for name, values in run.load_common(2).items():  # but for how its values were rounded
        torch.testing.assert_close(values, before[name], rtol=0, atol=2 * bound)

    (run.path / "common" / "round-0002.safetensors").unlink()
    grid = Sites(run, lambda number, at, site: "silent" if site == 3 else None)
    with pytest.raises(RunFailed, match="0 of 4 sites were there to uncover the sum"):
        federate(grid, run)
    with pytest.raises(AlreadySummed, match="round 2 was summed already, over other sites or trials; begin a new run"):
        run.site("site-0").uncovers(1, [1, 2, 3, 4])
    assert "begin a new run" in (run.path / "sites" / "site-0" / "log.txt").read_text()


@pytest.mark.parametrize("guarded", [False, True])
def test_two_runs_that_begin_alike_do_not_tell_what_one_site_sent(four, tmp_path, monkeypatch, guarded):
    """The attack by a server that only reads: a run with all four sites, and another, of the same seed, without one."""

    def opened(message, context):
        number = int(context.node_config["partition-id"])
        context.node_config["site"] = str(tmp_path / f"home-{number}")
        return asked[0], asked[0].federation.site[number]

    def home(path):
        made = object.__new__(SiteHome)
        made.path = Path(path)
        made.path.mkdir(exist_ok=True)
        return made

    asked, layers = [], {}
    monkeypatch.setattr(client_app, "_open", opened)
    monkeypatch.setattr(client_app, "SiteHome", home)
    for number in range(4):
        home(tmp_path / f"home-{number}")
    if not guarded:
        monkeypatch.setattr(SiteHome, "uncovers", lambda *words: None)
    for name, away in (("all", None), ("again", None), ("without", 3)):
        asked[:] = [run := four(name)]
        grid = Sites(run, lambda number, stage, site, away=away: "silent" if site == away else None)
        if guarded and away is not None:
            with pytest.raises(RunFailed, match="were there to uncover the sum"):
                federate(grid, run)
            assert (
                "summed over other sites before, in this run or another"
                in (run.path / "sites" / "site-0" / "log.txt").read_text()
            )
            return
        federate(grid, run)  # "again": the same sum once more tells nothing new
        layers[name] = run.load_common(1)
    plain = four("plain", secure=("secure_aggregation = true", ""))
    replies = LoopGrid(plain)
    monkeypatch.undo()
    federate(replies, plain)
    first = {reply.metadata.src_node_id - 100: reply.content for reply in replies.replies[:4]}
    sent, weights = first[3]["common"].to_torch_state_dict(), [first[k]["metrics"]["num-examples"] for k in range(4)]
    of_three = sum(weights[:3])
    start = server_network(plain.federation).common_state()
    told = {
        name: (values * sum(weights) - layers["without"][name] * of_three) / weights[3]
        for name, values in layers["all"].items()
    }
    of_site, found = (np.concatenate([(x[n] - start[n]).flatten() for n in start]) for x in (sent, told))
    assert np.corrcoef(of_site, found)[0, 1] > 0.99


def ask(state=None, **config):
    content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(config)})
    context = Context(1, 1, {}, RecordDict(), {})
    if state is not None:
        context.state[RECORD_KEY_STATE] = ConfigRecord(state)
    return Message(content, dst_node_id=1, message_type="train"), context


EQUAL = Contract(weighting="equal")


def setup(n_sites=4, how=secagg.OF_UPDATES, **changed):
    config = {
        Key.STAGE: Stage.SETUP, Key.SAMPLE_NUMBER: n_sites, Key.SHARE_NUMBER: n_sites,
        Key.THRESHOLD: secagg.threshold(n_sites), Key.CLIPPING_RANGE: how.clip, Key.TARGET_RANGE: how.levels,
        Key.MOD_RANGE: how.modulus, Key.MAX_WEIGHT: 1.0,
    }  # fmt: skip
    return ask(**{**config, **changed})


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"n_sites": 3}, "a secure sum of 3 sites, at least 4"),
        ({Key.THRESHOLD: 2}, "asks for threshold = 2 in secure aggregation, not 3"),
        ({Key.SHARE_NUMBER: 3}, "share_num = 3"),
        ({Key.MOD_RANGE: 2**24}, "mod_range = 16777216"),
        ({Key.MAX_WEIGHT: 1e9}, "max_weight = 1000000000.0"),
    ],
)
def test_a_server_that_asks_for_less_is_refused(asked, why):
    with pytest.raises(InputError, match=why):
        secagg.answer_stage(*setup(**asked), EQUAL, lambda: pytest.fail("it must not train"), print)


def test_both_secrets_of_a_site_are_not_given():
    known = {"rd_seed_share_dict:K": [1, 2, 3, 4], "rd_seed_share_dict:V": [b"x"] * 4}
    for alive, gone in (([1, 2, 3, 4], [4]), ([1, 2, 3, 3], []), ([1, 2, 3, 9], [])):
        config = {Key.STAGE: Stage.UNMASK, Key.ACTIVE_NODE_ID_LIST: alive, Key.DEAD_NODE_ID_LIST: gone}
        with pytest.raises(InputError, match="both secrets"):
            secagg.answer_stage(*ask(known, **config), EQUAL, lambda: None, print)


def test_a_plain_request_is_refused_where_the_contract_says_secure(four, monkeypatch):
    run = four()
    monkeypatch.setattr("federation.privacy.secure_grid.SecureGrid", lambda grid, *words: grid)
    with pytest.raises(RunFailed, match="0 of 4 sites answered well"):
        federate(Sites(run), run)
    assert "secure aggregation" in run.site("site-0").failure()


def test_an_update_beyond_the_range_is_refused_loudly(four):
    run = four(a=("batch_size = 8", "batch_size = 8\nlr = 3.0"))
    with pytest.raises(RunFailed, match="0 of 4 sites sent a masked update"):
        federate(Sites(run), run)
    assert "secure aggregation carries 1 at most; lower lr" in run.site("site-0").failure()


@pytest.mark.parametrize(
    ("contract", "why"),
    [('strategy = "fedmedian"', "fedmedian"), ('share = "none"', "nothing is shared")],
)
def test_what_excludes_secure_aggregation(four, contract, why):
    with pytest.raises(InputError, match=why):
        four(contract=contract)


def test_three_sites_are_too_few(tmp_path):
    with pytest.raises(InputError, match="secure_aggregation needs at least 4 sites, there are 2"):
        federation_of(tiny_toml(contract="secure_aggregation = true"), tmp_path)


def test_a_sites_words_are_cut_before_they_end_the_run(four):
    """A name of a million characters stood in why the run ended, which the operator's terminal and a file get."""
    run = four()
    grid = Sites(run, lambda number, at, site: "raises" if at == Stage.SHARE_KEYS and site < 2 else None)
    plain = grid.send_and_receive

    def wordy(messages, *, timeout=None):
        replies = plain(messages, timeout=timeout)
        for reply in replies:
            if reply.has_content() and "site" in reply.content:
                reply.content["site"]["name"] = "x" * 10**6 + "\x1b[2J"
        return replies

    grid.send_and_receive = wordy
    with pytest.raises(RunFailed) as caught:
        federate(grid, run)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
