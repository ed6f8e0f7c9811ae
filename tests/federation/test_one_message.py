"""One message a site, as a secure sum: equal to the pooled trials; and, with noise, of no person more than promised."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LoopGrid, federation_of, mfscsn, refused, write_bids
from flwr.app import ArrayRecord, RecordDict
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from scipy.optimize import brentq
from scipy.stats import chisquare, norm

from data.errors import InputError
from data.store import forget
from experiments.prepare import prepare_sites
from federation.common_layers import export_common
from federation.contract import Contract, Part
from federation.plain_loop import train_together
from federation.privacy import persons, secagg
from federation.privacy.ledger import LEDGER, PERSON, Ledger, epsilon_of
from federation.privacy.secure_grid import SecureGrid
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_network import site_network
from federation.site_trials import SiteTrials
from federation.strategy import RunFailed
from mfscsn import MFSCSNClassifier
from mfscsn.branch import BranchTrials
from mfscsn.settings import Settings
from mfscsn.sums import clipped, person_vectors
from mfscsn.training import fine_tune, train_round

TASKS = (["right_hand", "rest"], ["left_hand", "right_hand"], ["right_hand", "rest"], ["left_hand", "rest"])
HEADSETS = (["C3", "Cz", "C4", "FC1"], ["C3", "Cz", "C4"], ["C3", "C4", "CP1", "CP2", "Cz"], ["C3", "C4", "Cz", "FC2"])
SOURCE = "{{ n_subjects = {n}, n_runs = 2, n_trials = 4, montage = {montage}, trial_length = 3.0 }}"


def four_toml(contract="", privacy="", leave_out=(), subjects=None, targets=True, min_sites=4):
    text = f"""
name = "four"

[contract]
window = [0.5, 2.5]
strategy = "one-message"
electrodes = ["C3", "Cz", "C4"]
labels = ["left_hand", "right_hand", "rest"]
min_sites = {min_sites}
{contract}
"""
    for k in range(4):
        if k in leave_out:
            continue
        whose = (subjects or {}).get(k, [1, 2, 3])
        last = "targets = [3]\ncalibration = { first = 4 }\ntest = { after = 4 }" if targets and k == 0 else ""
        text += f"""
[[site]]
name = "site-{k}"
{privacy}
[[site.dataset]]
source = "simulated:{"clinic" if k % 2 == 0 else "laboratory"}"
options = {SOURCE.format(n=3, montage=str(HEADSETS[k]).replace("'", '"'))}
tasks = {str(TASKS[k]).replace("'", '"')}
subjects = {whose}
channels = {str(HEADSETS[k]).replace("'", '"')}
{last}
"""
    return text


MEANS = 'body = "means"\nnoise_multiplier = 0.7'
COUNTED = "metrics = []\nprivacy = { epsilon = 40.0 }"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    prepare_sites(federation_of(four_toml(), folder), folder / "store")
    return folder / "store"


@pytest.fixture
def four(tmp_path, store):
    def make(name="run", **changes):
        return RunFolder.create(tmp_path / name, federation_of(four_toml(**changes), tmp_path), store, 1)

    return make


class Dropping(LoopGrid):
    """The sites of a run in this process; one of them goes silent from a stage on."""

    def __init__(self, run, site=None, stage=Stage.COLLECT_MASKED_VECTORS):
        super().__init__(run)
        self.site, self.stage, self.up = site, stage, []

    def send_and_receive(self, messages, *, timeout=None):
        kept = []
        for message in messages:
            stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
            if self.nodes[message.metadata.dst_node_id] == self.site and stage == self.stage:
                continue
            (reply,) = super().send_and_receive([message])
            if reply.has_content():
                self.up.append((stage, RecordDict(dict(reply.content))))  # as it was sent
            kept.append(reply)
        return kept


def pooled(run, names=None):
    """Sum the trials of all sites in one place, from the same inputs."""
    states = []
    for site in run.federation.site:
        if names is None or site.name in names:
            opened = SiteTrials(site, run.federation.contract, run.store)
            network = site_network(run.federation, opened)
            train_round(network, opened.training(), run.federation.settings, seed=0)
            states.append(network.common_state())
    return {name: sum(state[name] for state in states) for name in states[0]}


def apart(a, b):
    square = sum(float((a[name] - b[name]).square().sum()) for name in b)
    return (square / sum(float(v.square().sum()) for v in b.values())) ** 0.5


def solved(run, layers):
    opened = SiteTrials(run.federation.site[0], run.federation.contract, run.store)
    network = site_network(run.federation, opened)
    network.load_common(layers)
    return network.solution(next(iter(network.branches)))


def solutions_apart(run, a, b):
    (w, c), (v, d) = solved(run, a), solved(run, b)
    return max(float((w - v).norm() / v.norm()), float((c - d).norm() / d.norm()))


def test_a_secure_sum_is_the_pooled_solution_whatever_labels_sites_have(four):
    run = four()
    federate(Dropping(run), run)
    wanted = pooled(run)
    assert run.last_round() == 1 and apart(run.load_common(1), wanted) < 1e-8
    assert solutions_apart(run, run.load_common(1), wanted) < 1e-6
    assert [row["status"] for row in run.history()] == ["ok"] * 4
    together, _ = train_together(run.federation, run.store)
    assert apart(together["site-2"].common_state(), wanted) < 1e-12


def test_of_a_site_that_drops_out_in_the_middle_nothing_is_in_the_sum(four):
    """Between its keys and its message: three of four are summed, where min_sites says that three will do."""
    run = four(min_sites=3)
    federate(Dropping(run, site=1), run)
    assert solutions_apart(run, run.load_common(1), pooled(run, {"site-0", "site-2", "site-3"})) < 1e-6


def test_what_a_site_sends_is_uniform(four):
    """Of the same site's sums without masks, a test of the attacker's: most numbers would be near zero."""
    run = four()
    grid = Dropping(run)
    federate(grid, run)
    sent = [r for stage, r in grid.up if stage == Stage.COLLECT_MASKED_VECTORS]
    assert len(sent) == 4
    for reply in sent:
        assert set(reply) == {RECORD_KEY_CONFIGS, "site"}
        parts = reply.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        numbers = np.concatenate([bytes_to_ndarray(part).ravel() for part in parts])
        assert (numbers >= 0).all() and (numbers < 2**62).all()
        assert chisquare(np.bincount(numbers >> 57, minlength=32)).pvalue > 1e-5


def test_fewer_sites_than_min_sites_are_uncovered_neither_at_the_server_nor_at_the_sites(four, monkeypatch):
    run = four()
    with pytest.raises(RunFailed, match="3 of 4 sites sent a masked update, min_sites is 4"):
        federate(Dropping(run, site=1), run)
    monkeypatch.setattr(SecureGrid, "__init__", forgetful(SecureGrid.__init__))
    with pytest.raises(RunFailed, match="0 of 4 sites were there to uncover the sum"):
        federate(Dropping(run, site=1), run)
    assert "a sum of 3 sites, and min_sites is 4; refused" in run.site("site-0").failure()


def forgetful(begin):
    def make(self, *words):
        begin(self, *words)
        self.fewest = None

    return make


def test_taken_out_again_is_never_having_joined(four):
    """A site, and a person: one fresh sum over those that are left, or over the trials that are left."""
    whole = four("whole")
    federate(Dropping(whole), whole)
    without = four("without", subjects={0: [1, 3]})
    federate(Dropping(without), without)
    assert solutions_apart(without, without.load_common(1), pooled(without)) < 1e-6
    assert apart(whole.load_common(1), without.load_common(1)) > 1e-3


class Forging(Dropping):
    """A server that is not honest: it changes what the sites are asked."""

    def __init__(self, run, forge):
        super().__init__(run)
        self.forge = forge

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        for message in messages:
            self.forge(message)
        return super().send_and_receive(messages, timeout=timeout)


def test_a_server_gets_no_second_sum_by_calling_it_another_round(four):
    run = four(min_sites=3)
    federate(Dropping(run), run)
    (run.path / "common" / "round-0001.safetensors").unlink()

    def forge(message):
        message.content.config_records["config"]["server-round"] = 2

    with pytest.raises(RunFailed, match="0 of 4 sites gave their keys"):
        federate(Forging(run, forge), run)
    assert "asks for round 2, this run has 1 to 1; refused" in run.site("site-0").failure()


def test_what_the_server_sends_as_the_start_changes_nothing_of_what_a_site_sends(four):
    """Else a number beyond what a sum carries is refused, and the refusal tells how large the site's own number is."""
    run = four()
    federate(Dropping(run), run)
    wanted = run.load_common(1)

    def forge(message):
        if "common" in message.content.array_records:
            layers = message.content.array_records["common"].to_torch_state_dict()
            message.content.array_records["common"] = ArrayRecord({k: v + 2.0**20 + 1 for k, v in layers.items()})

    again = four("again")
    federate(Forging(again, forge), again)
    for name, values in again.load_common(1).items():
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=1e-6)


def test_a_second_sum_of_the_same_sites_over_other_trials_is_refused(four, store, tmp_path):
    """A person who is gone would be the difference."""
    copied = Path(shutil.copytree(store, tmp_path / "copied"))
    text = four_toml(targets=False).replace("subjects = [1, 2, 3]\n", "")  # all that are prepared
    run = RunFolder.create(tmp_path / "run", federation_of(text, tmp_path), copied, 1)
    federate(Dropping(run), run)
    (run.path / "common" / "round-0001.safetensors").unlink()
    assert forget("simulated:clinic", copied, "2") == 2  # of two sites
    with pytest.raises(RunFailed, match="were there to uncover the sum"):
        federate(Dropping(run), run)
    assert "over other sites or trials" in (run.path / "sites" / "site-0" / "log.txt").read_text()


def test_asked_again_a_site_sends_the_same_noise_and_pays_once(four):
    run = four(contract=MEANS, privacy="metrics = []\nprivacy = { epsilon = 8.0, share = 1.0 }", min_sites=4)
    with pytest.raises(RunFailed, match="3 of 4 sites sent a masked update"):
        federate(Dropping(run, site=1), run)
    federate(Dropping(run), run)  # the budget is for one message
    ledgers = [Ledger(run.site(s.name).folder / LEDGER, s.privacy).account for s in run.federation.site]
    assert [len(account.rounds) for account in ledgers] == [1] * 4


def test_a_ledger_is_missed_though_the_sums_were_forgotten(four):
    run = four(contract=MEANS, privacy=COUNTED)
    federate(Dropping(run), run)
    run.forget_sums("forgotten")
    folder = run.path.parent / "home"
    (folder / "runs").mkdir(parents=True)
    shutil.copytree(run.path, folder / "runs" / "one")
    with pytest.raises(InputError, match="missing, though this site has trained under differential privacy"):
        Ledger(folder / LEDGER, run.federation.site[0].privacy)


def test_noise_stays_whole_levels_of_all_sizes():
    """In single precision its last digits would be cut off by size."""
    contract = Contract(strategy="one-message", body="means", labels=["a", "b"], min_sites=4, noise_multiplier=0.7)
    drawn = persons.with_share(torch.zeros(500, dtype=torch.float64), contract)
    levels = (drawn / secagg.OF_SUMS.unit).long()
    assert drawn.dtype == torch.float64 and 0.3 < float((levels % 2 != 0).double().mean()) < 0.7


def test_of_means_a_missing_label_is_no_refusal(four):
    """Where the only person with a second label is gone, a refusal would say so; the site says zeros."""
    for contract, refused_there in (("", True), ('body = "means"', False)):
        run = four(f"run-{bool(contract)}", contract=contract)
        site = run.federation.site[0]
        one_trial = {"subjects": ["3"], "calibration": Part(first=1), "test": Part(after=1)}
        left = site.model_copy(update={"dataset": [site.dataset[0].model_copy(update=one_trial)]})
        with pytest.raises(InputError, match="the one class") if refused_there else nullcontext():
            (trials,) = run.trials(left).training().values()
            assert len(trials.labels) == 1 and not person_vectors(trials)[0].any()
    assert not clipped(torch.tensor([float("nan"), 1.0]), 1.0).any()


def test_own_trials_weigh_more_and_stay(four):
    run = four()
    federate(Dropping(run), run)
    network, trials = run.load_network("site-0"), run.trials(run.federation.site[0])
    (target,) = trials.targets()
    own = trials.calibration()[target.dataset, target.subject]
    assert isinstance(own, BranchTrials)
    fitted = fine_tune(network, own, target.branch, Settings(), seed=0)
    assert not torch.equal(fitted.solution(target.branch)[0], network.solution(target.branch)[0])


@pytest.mark.parametrize(
    ("contract", "why"),
    [
        ("secure_aggregation = false\nlabels = []", "labels"),
        ('body = "eegnet"', 'needs body = "sums" or "means"'),
        ('extractor = "shallow"', 'needs extractor = "common-space"'),
        ('weighting = "trials"', "sums are added, not weighed"),
        ("noise_multiplier = 1.0", "noise_multiplier hides a person in means"),
        (f"{MEANS}\nsecure_aggregation = false", "each site adds a share of it"),
    ],
)
def test_what_does_not_go_together(tmp_path, contract, why):
    text = four_toml()
    for line in contract.splitlines():
        key = line.partition(" = ")[0]
        text = "\n".join(old for old in text.splitlines() if not old.startswith(f"{key} ="))
    with pytest.raises(InputError, match=why):
        federation_of(text.replace("[contract]", f"[contract]\n{contract}"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"leave_out": (3,)}, "secure_aggregation needs at least 4 sites, there are 3"),
        ({"contract": "[training]\nrounds = 2"}, "training.rounds is 1, not 2"),
        ({"contract": MEANS}, "nobody counts"),
        ({"privacy": "metrics = []\nprivacy = { epsilon = 4.0, n_trials = 9 }", "contract": MEANS}, "no n_trials"),
        ({"privacy": "privacy = { epsilon = 4.0 }", "contract": MEANS}, "how long a message takes"),
        ({"privacy": COUNTED}, 'needs contract.body = "means" with noise_multiplier above 0'),
        ({"privacy": f'{COUNTED}\nbranch_by = "subject"', "contract": MEANS}, "a person of one label"),
    ],
)
def test_what_is_refused(tmp_path, changes, why):
    with pytest.raises(InputError, match=why):
        federation_of(four_toml(**changes), tmp_path)


# Noise


def analytic_epsilon(sigma, delta=1e-5):
    """Balle and Wang 2018, ICML, theorem 8: exactly what a Gaussian of deviation `sigma` tells."""

    def excess(epsilon):
        low, high = norm.cdf(0.5 / sigma - epsilon * sigma), norm.logcdf(-0.5 / sigma - epsilon * sigma)
        return low - np.exp(epsilon + high) - delta

    return brentq(excess, 0, 200)


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.0, 2.0, 4.0])
def test_what_is_counted_is_no_less_than_what_is_told(sigma):
    counted = epsilon_of([(sigma, 1.0, 1)], 1e-5)
    assert analytic_epsilon(sigma) <= counted <= 1.25 * analytic_epsilon(sigma)


@pytest.mark.parametrize(("min_sites", "honest"), [(4, 3), (6, 4), (9, 6), (10, 7)])
def test_noise_is_there_though_a_third_adds_none(min_sites, honest):
    contract = Contract(
        strategy="one-message", body="means", labels=["a", "b"], min_sites=min_sites, noise_multiplier=0.7
    )
    assert persons.n_honest(min_sites) == honest
    one = persons.share_deviation(contract, 1320) * secagg.OF_SUMS.unit
    assert one * honest**0.5 == pytest.approx(0.7 * 1.5, rel=1e-6)
    drawn = sum(persons.with_share(torch.zeros(2000, 3, dtype=torch.float64), contract) for _ in range(honest))
    assert float(drawn.std()) == pytest.approx(0.7 * 1.5, rel=0.05)
    levels = drawn / secagg.OF_SUMS.unit
    assert torch.equal(levels, levels.round()) and abs(float(drawn.mean())) < 0.06


def test_the_sum_holds_the_noise_of_all_sites_once(four):
    run = four(contract=MEANS, privacy=COUNTED)
    federate(Dropping(run), run)
    told, wanted = run.load_common(1)["directions"], pooled(run)["directions"]
    noise = (told - wanted).flatten()
    assert float(noise.std()) == pytest.approx(0.7 * 1.5 * (4 / 3) ** 0.5, rel=0.2)
    for site in run.federation.site:
        account = Ledger(run.site(site.name).folder / LEDGER, site.privacy).account
        assert account.unit == PERSON and account.epsilon == pytest.approx(epsilon_of([(0.7, 1.0, 1)], 1e-5))


def test_a_spent_budget_sends_nothing(four):
    run = four(contract=MEANS, privacy="metrics = []\nprivacy = { epsilon = 2.0, share = 1.0 }")
    with pytest.raises(RunFailed, match="0 of 4 sites sent a masked update"):
        federate(Dropping(run), run)
    assert "the site allows 2" in (run.path / "sites" / "site-0" / "log.txt").read_text()


def test_an_attacker_who_knows_all_others_tells_a_person_without_noise_and_not_with_it(four):
    """It takes everybody else's vectors off the sum and looks along the person's own: the strongest there is."""
    run, left = four(contract='body = "means"', targets=False), four("left", contract='body = "means"', targets=False,
                                                                     subjects={0: [1, 3]})  # fmt: skip
    others, person = pooled(left)["directions"], pooled(run)["directions"] - pooled(left)["directions"]
    contract = Contract(
        strategy="one-message", body="means", labels=["a", "b", "c"], min_sites=4, noise_multiplier=2.0,
    )  # fmt: skip

    def guessed(noise):
        right = 0
        for k in range(200):
            there = k % 2 == 0
            told = others + (person if there else 0)
            if noise:
                told = sum((persons.with_share(torch.zeros_like(told), contract) for _ in range(3)), told)
            seen = float(((told - others) * person).sum() / person.square().sum())
            right += (seen > 0.5) == there
        return right / 200

    assert guessed(noise=False) == 1.0
    most = norm.cdf(1.5 / (2 * 2.0 * 1.5))  # of the best test of one Gaussian against another, one length apart
    assert guessed(noise=True) < most + 4 * 0.5 / 200**0.5


def test_a_person_added_changes_nothing_else_at_its_site(four):
    """Neither another person's vector, nor the number of numbers, nor what stands beside them."""
    run, left = four(contract='body = "means"'), four("left", contract='body = "means"', subjects={2: [1, 3]})
    with_all, without = ({s.name: r.trials(s) for s in r.federation.site}["site-2"].training() for r in (run, left))
    (whole,), (part,) = with_all.values(), without.values()
    kept = np.isin(whole.persons, part.persons)
    assert set(whole.persons) - set(part.persons) == {next(p for p in whole.persons if p.endswith("/2"))}
    assert np.array_equal(whole.signals[kept], part.signals) and np.array_equal(whole.labels[kept], part.labels)


def test_the_command_simulates_it_and_the_report_says_so(tmp_path, store):
    (tmp_path / "four.toml").write_text(four_toml())
    code, out, err = mfscsn("simulate", tmp_path / "four.toml", "--store", store, "--out", "run", cwd=tmp_path)
    assert code == 0, err
    assert "mf-scsn" in out and "Traceback" not in err
    poor = four_toml(contract=MEANS, privacy="metrics = []\nprivacy = { epsilon = 8.0 }")
    (tmp_path / "poor.toml").write_text(poor)
    line = refused("simulate", tmp_path / "poor.toml", "--store", store, "--out", "r", cwd=tmp_path)
    assert "one message costs epsilon 7.16, and a run may take 2 (share 0.25 of 8)" in line
    line = refused("simulate", tmp_path / "four.toml", "--store", store, "--rounds", 3, "--out", "r", cwd=tmp_path)
    assert "training.rounds is 1, not 3" in line


def test_an_exported_file_is_under_a_megabyte_and_decodes_an_unseen_headset_better_with_own_trials(four, tmp_path):
    run = four()
    federate(Dropping(run), run)
    file, _ = export_common(run, tmp_path / "exported")
    assert file.stat().st_size < 1e6
    write_bids(tmp_path / "bids", ["9"], ["01", "02"], ["C3", "Cz", "C4", "CP1"], n=6, pause=False)
    words = ("--data", f"bids:{tmp_path / 'bids'}", "--tasks", "left_hand,right_hand")
    code, _, err = mfscsn("predict", file, *words, "--cues", "left_hand,right_hand", cwd=tmp_path)
    assert code == 0, err
    table = (tmp_path / "probabilities.csv").read_text().splitlines()
    assert "right_hand" in table[0] and "rest" not in table[0] and len(table) == 25
    code, out, err = mfscsn("adopt", file, *words, "--calibration", 12, "--store", "s", "--out", "a", cwd=tmp_path)
    assert code == 0 and "mf-scsn" in out, err
    kept = RunFolder(tmp_path / "a")
    assert apart(kept.load_common(1), {k: v.float().double() for k, v in run.load_common(1).items()}) < 1e-6


def test_the_classifier_takes_the_sums_and_own_trials(four, tmp_path):
    run = four()
    federate(Dropping(run), run)
    file, _ = export_common(run, tmp_path / "exported")
    rng = np.random.default_rng(0)
    signals, labels = rng.standard_normal((20, 3, 256)), np.repeat(["left_hand", "rest"], 10)
    channels = ["C3", "Cz", "C4"]
    model = MFSCSNClassifier(128.0, channels=channels, common=file).fit(signals, labels)
    assert set(model.predict(signals)) <= {"left_hand", "rest"} and model.predict_proba(signals).shape == (20, 2)
    with pytest.raises(ValueError, match="knows the labels left_hand, right_hand, rest, not feet"):
        MFSCSNClassifier(128.0, channels=channels, common=file).fit(signals, np.repeat(["feet", "rest"], 10))


def test_the_audit_attacks_the_sum_with_and_without_noise(four, tmp_path):
    run = four(contract='body = "means"', targets=False)
    federate(Dropping(run), run)
    assert "of one message: --parts persons" in refused("audit", run.path, "--parts", "membership", cwd=tmp_path)
    code, out, err = mfscsn("audit", run.path, "--seeds", 1, cwd=tmp_path)
    assert code == 0, err
    rows = [line for line in out.splitlines() if "sum of one message" in line]
    known = [float(line.split("|")[3].split()[0]) for line in rows]
    # How well noise hides is a test of its own (tests/experiments/audit): of so few persons it is chance
    assert known[0] == 1.0 and len(known) > 1 and all(0 <= value <= 1 for value in known)
