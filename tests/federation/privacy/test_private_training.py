"""Gradients of single trials, cut and noised; a whole run that stops at its budget."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import LoopGrid, federation_of, tiny_toml
from scipy.stats import kstest

from data.errors import InputError
from federation.plain_loop import train_together
from federation.privacy import private_training
from federation.privacy.private_training import (
    Mechanism,
    clip_per_sample_gradients,
    gradients_of_trials,
    steps_of_round,
    train_round_privately,
)
from federation.privacy.randomness import key_stream, secret_normal, secret_uniform
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.strategy import RunFailed
from mfscsn.branch import Branch, BranchTrials
from mfscsn.network import Architecture, SeparateCommonSeparate
from mfscsn.settings import Settings

PRIVATE = 'alignment = "standard"\nweighting = "equal"'


def private_toml(privacy: str, rounds: int = 2, contract: str = "") -> str:
    text = tiny_toml(contract=f"{PRIVATE}\n{contract}").replace('"shallow"', '"shallow-group"')
    text = text.replace("rounds = 2", f"rounds = {rounds}")
    for name in ("north", "south"):
        text = text.replace(
            f'name = "{name}"', f'name = "{name}"\nmetrics = []\nprivacy = {{ n_trials = 24, {privacy} }}'
        )
    return text


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = SeparateCommonSeparate(
        Architecture(416, 128.0, "shallow-group"),
        {"a": Branch(5, 3), "b": Branch(3, 2)},
    )
    made.extractors["of-a"].drop.p = made.extractors["of-b"].drop.p = 0.0
    return made


@pytest.fixture
def trials():
    rng = np.random.default_rng(0)
    return {
        "a": BranchTrials(rng.standard_normal((12, 5, 416), np.float32), rng.integers(0, 3, 12), ("x", "y", "z")),
        "b": BranchTrials(rng.standard_normal((7, 3, 416), np.float32), rng.integers(0, 2, 7), ("x", "y")),
    }


@pytest.mark.parametrize(("n_chans", "n_times", "sfreq"), [(5, 416, 128.0), (22, 640, 250.0)])
def test_gradients_of_the_fused_extractor_are_those_of_a_loop_over_trials(n_chans, n_times, sfreq):
    """Both forms of the convolution: the second is the Fourier one."""
    torch.manual_seed(1)
    architecture = Architecture(n_times, sfreq, "shallow-group")
    network = SeparateCommonSeparate(architecture, {"a": Branch(n_chans, 3)})
    network.extractors["of-a"].drop.p = 0.0
    x, y = torch.randn(6, n_chans, n_times), torch.randint(0, 3, (6,))
    with gradients_of_trials(network):
        torch.nn.functional.cross_entropy(network(x, "a"), y, reduction="sum").backward()
        together = {name: p.grad_sample for name, p in network.named_parameters()}
    assert not any(hasattr(p, "grad_sample") for p in network.parameters())
    for k in range(6):
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(x[k : k + 1], "a"), y[k : k + 1]).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(together[name][k], parameter.grad, atol=1e-5, rtol=1e-3)


def test_lengths_are_cut_over_all_parameters_together(network, trials):
    signals, labels = torch.from_numpy(trials["a"].signals), torch.from_numpy(trials["a"].labels)
    alone = []
    for k in range(12):
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(signals[k : k + 1], "a"), labels[k : k + 1]).backward()
        alone.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()])
    lengths = torch.tensor([sum(float(g.square().sum()) for g in grads) ** 0.5 for grads in alone])
    clip = float(lengths.median())
    with gradients_of_trials(network):
        torch.nn.functional.cross_entropy(network(signals, "a"), labels, reduction="sum").backward()
        found = clip_per_sample_gradients(list(network.parameters()), clip)
    for k, total in enumerate(found):
        expected = sum(grads[k] * min(1.0, clip / float(n)) for grads, n in zip(alone, lengths, strict=True))
        torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-3)


def test_every_parameter_gets_noise_of_the_size_that_is_said(network, trials, monkeypatch):
    seen = []
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: seen.append([p.grad.clone() for p in self.param_groups[0]["params"]])
    )
    settings = Settings(batch_size=4)
    assert steps_of_round(12, settings) == (3, 1 / 3)
    train_round_privately(network, trials, settings, Mechanism(noise_multiplier=50.0, max_grad_norm=0.01, n_trials=12))
    assert len(seen) == 3
    for step in seen:
        deviation = 50.0 * 0.01 / (24 / 3)  # over what two data sets of the declared size have in a step
        for gradient in step:
            if gradient.numel() > 200:
                assert float(gradient.std()) == pytest.approx(deviation, rel=0.2)
        assert kstest(step[0].flatten().numpy() / deviation, "norm").pvalue > 1e-4


def test_with_little_noise_it_learns(network, trials):
    trials["a"].signals[trials["a"].labels == 1, 0] *= 3
    losses = []
    state = None
    for _ in range(40):
        log, state = train_round_privately(
            network,
            {"a": trials["a"]},
            Settings(batch_size=6, lr=3e-3),
            Mechanism(0.01, 1.0, 12),
            optimiser_state=state,
        )
        losses.append(log.loss)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5]) and log.n_trials == 12
    assert state and not any(key.startswith("common.") for key in state)


def test_a_site_with_privacy_of_a_trial_follows_the_schedule(tmp_path, prepared, monkeypatch):
    seen = []
    plain = private_training.train_round_privately

    def noted(network, trials, settings, *words, **named):
        seen.append(settings.lr)
        return plain(network, trials, settings, *words, **named)

    monkeypatch.setattr(private_training, "train_round_privately", noted)
    text = private_toml("epsilon = 8.0").replace("rounds = 2", 'rounds = 2\nschedule = "cosine"')
    run = RunFolder.create(tmp_path / "run", federation_of(text, tmp_path), prepared, 1)
    federate(LoopGrid(run), run)
    settings = run.federation.settings
    assert seen == [settings.in_round(1).lr] * 2 + [settings.in_round(2).lr] * 2 and seen[0] > 3 * seen[2]


def test_no_two_draws_are_alike_and_the_stream_is_a_ciphers():
    assert not np.array_equal(secret_normal(5), secret_normal(5))
    assert kstest(secret_uniform(4000), "uniform").pvalue > 1e-4 and kstest(secret_normal(4000), "norm").pvalue > 1e-4
    assert key_stream(bytes(32), 32).hex() == "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"


def test_a_run_keeps_a_ledger_and_ends_within_its_budget(tmp_path, prepared):
    federation = federation_of(private_toml("epsilon = 8.0, share = 1.0"), tmp_path)
    run = RunFolder.create(tmp_path / "run", federation, prepared, 1)
    grid = LoopGrid(run)
    federate(grid, run)
    for site in ("north", "south"):
        kept = json.loads((run.site(site).folder / "privacy.json").read_text())
        assert [entry["round"] for entry in kept["rounds"]] == [1, 2]
        assert 7.5 < kept["epsilon"] <= 8.0 and kept["budget"] == 8.0  # the least noise that fits
        log = (run.site(site).folder / "log.txt").read_text()
        assert "trials, " in log and "loss" not in log  # no noise covers it
        assert {(one["steps"], one["sample_rate"]) for one in kept["rounds"]} == {
            steps_of_round(run.federation.site[0].privacy.n_trials, run.federation.settings)
        }  # of the number that was declared, never of the true one
    for reply in grid.replies:
        assert dict(reply.content["metrics"]) == {"num-examples": 1}


def test_a_run_stops_at_the_budget_and_says_so(tmp_path, prepared):
    federation = federation_of(private_toml("epsilon = 3.0, share = 1.0, noise_multiplier = 3.0", rounds=50), tmp_path)
    run = RunFolder.create(tmp_path / "run", federation, prepared, 1)
    with pytest.raises(RunFailed, match="south: has spent its privacy budget, and trains no more"):
        federate(LoopGrid(run), run)
    done = run.last_round()
    assert 0 < done < 50
    kept = json.loads((run.site("south").folder / "privacy.json").read_text())
    assert kept["epsilon"] <= 3.0
    assert f"round {kept['rounds'][-1]['round'] + 1}: not trained" in (run.site("south").folder / "log.txt").read_text()
    with pytest.raises(RunFailed):  # another try spends nothing more
        federate(LoopGrid(run), run)
    assert json.loads((run.site("south").folder / "privacy.json").read_text()) == kept


def test_a_round_is_written_down_before_it_is_trained(tmp_path, prepared, monkeypatch):
    def dies(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(private_training, "train_round_privately", dies)
    run = RunFolder.create(tmp_path / "run", federation_of(private_toml("epsilon = 8.0"), tmp_path), prepared, 1)
    with pytest.raises(KeyboardInterrupt):
        federate(LoopGrid(run), run)
    (ledger,) = run.path.glob("sites/*/privacy.json")  # of the site that was asked first
    assert len(json.loads(ledger.read_text())["rounds"]) == 1


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('"shallow-group"', '"shallow"', 'privacy needs contract.extractor = "shallow-group"'),
        ('"standard"', '"euclidean"', 'privacy needs contract.alignment = "none" or "standard"'),
        ('"equal"', '"trials"', 'privacy needs contract.weighting = "equal"'),
        ("metrics = []", 'metrics = ["loss"]', r"privacy needs metrics = \[\]"),
        ("metrics = []", 'metrics = []\nscores = ["balanced_accuracy"]', r"privacy needs scores = \[\]"),
        ("batch_size = 8", "batch_size = 8\nmmd = 1.0", "privacy needs training.mmd = 0"),
        ('"equal"', '"equal"\nstrategy = "fedprox"', "privacy needs another strategy"),
        ("epsilon = 8.0", "epsilon = 8.0, sigma = 1.0", "sigma: unknown key"),
        ("n_trials = 24, ", "", "privacy needs n_trials"),
        ("metrics = []", 'metrics = []\nbranch_by = "subject"', 'privacy needs branch_by = "dataset"'),
    ],
)
def test_what_would_tell_of_trials_without_noise_is_refused(tmp_path, old, new, wanted):
    with pytest.raises(InputError, match=wanted):
        federation_of(private_toml("epsilon = 8.0").replace(old, new), tmp_path)


def test_a_delta_that_lets_a_trial_be_told_is_refused(tmp_path, prepared):
    federation = federation_of(private_toml("epsilon = 8.0, delta = 0.1"), tmp_path)
    run = RunFolder.create(tmp_path / "run", federation, prepared, 1)
    with pytest.raises(RunFailed):
        federate(LoopGrid(run), run)
    assert "privacy.delta = 0.1" in run.site("north").failure()


@pytest.mark.parametrize(("batch_size", "n_trials"), [(64, 64), (64, 60), (8, 64)])
def test_a_trial_that_is_not_drawn_changes_nothing_at_all(monkeypatch, batch_size, n_trials):
    """The attack: 64 or 65 trials at batch 64 were told apart by the number of steps, whatever the noise was.

    The last trial is there or not; where no step draws it, all that leaves must be the same, bit for bit.
    """
    rng = np.random.default_rng(0)
    signals, labels = rng.standard_normal((65, 5, 416), np.float32), rng.integers(0, 3, 65)
    labels[64] = 2
    found, ledgers = [], []
    for n in (64, 65):
        torch.manual_seed(0)
        network = SeparateCommonSeparate(Architecture(416, 128.0, "shallow-group"), {"a": Branch(5, 3)})
        network.extractors["of-a"].drop.p = 0.0
        draws = np.random.default_rng(1)
        noise = np.random.default_rng(2)

        def uniform(n, draws=draws):
            drawn = draws.random(64)
            return np.concatenate([drawn, np.full(n - 64, 2.0)])  # above any rate: never drawn

        monkeypatch.setattr(private_training, "secret_uniform", uniform)
        monkeypatch.setattr(private_training, "secret_normal", lambda n, noise=noise: noise.standard_normal(n))
        settings = Settings(batch_size=batch_size, local_epochs=2)
        trials = {"a": BranchTrials(signals[:n].copy(), labels[:n].copy(), ("x", "y", "z"))}
        log, _ = train_round_privately(network, trials, settings, Mechanism(1.0, 1.0, n_trials))
        found.append((network.state_dict(), log.n_trials))
        ledgers.append(steps_of_round(n_trials, settings))
    assert found[0][1] == found[1][1] and ledgers[0] == ledgers[1]
    for name, values in found[0][0].items():
        assert torch.equal(values, found[1][0][name]), name


def test_in_the_plain_loop_a_site_with_privacy_trains_with_noise_too(tmp_path, prepared):
    """Else a benchmark of such a federation would be of one without; two trainings of one seed differ by the noise."""
    private = federation_of(private_toml("epsilon = 8.0"), tmp_path)
    sites = [site.model_copy(update={"privacy": None}) for site in private.site]
    plain = private.model_copy(update={"site": sites})

    def twice(federation):
        one, other = (train_together(federation, prepared)[0]["north"].common_state() for _ in range(2))
        return all(torch.equal(one[name], other[name]) for name in one)

    assert twice(plain) and not twice(private)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no graphics card here")
def test_a_card_cuts_and_sums_as_the_processor_does(network, trials, monkeypatch):
    monkeypatch.setattr(private_training, "secret_uniform", np.zeros)  # every trial is in every step
    settings, mechanism = Settings(rounds=1, batch_size=12, lr=1e-2), Mechanism(0.0, 1.0, 12)
    logs = {}
    made = {device: copy.deepcopy(network) for device in ("cpu", "cuda")}
    for device, one in made.items():
        logs[device], state = train_round_privately(one, trials, settings, mechanism, device=device)
        assert all(value.device.type == "cpu" for value in state.values())
    for name, value in made["cpu"].state_dict().items():
        moved = (value - network.state_dict()[name]).float().abs().max()
        there = made["cuda"].state_dict()[name]
        assert there.device.type == "cpu" and (value - there).float().abs().max() <= 1e-4 + 0.05 * moved, name
    assert logs["cpu"].loss == pytest.approx(logs["cuda"].loss, rel=1e-3)
