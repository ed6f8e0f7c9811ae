import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mfscsn.branch import Branch, BranchTrials
from mfscsn.network import Architecture, SeparateCommonSeparate
from mfscsn.settings import Settings
from mfscsn.training import _uphill, derive_seed, fine_tune, predict, rounds_of, train_round

ARCHITECTURE = Architecture(n_times=256, sfreq=128.0)
SHAPES = {"a": Branch(3, 2), "b": Branch(4, 3)}


def easy_trials(n_chans: int, names: tuple[str, ...], n: int, seed: int = 0) -> BranchTrials:
    """Each class has its own strong channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(names)
    signals = rng.normal(size=(n, n_chans, 256)).astype(np.float32)
    signals[np.arange(n), labels] *= 3
    return BranchTrials(signals, labels.astype(np.int64), names)


@pytest.fixture
def trials():
    return {"a": easy_trials(3, ("left_hand", "rest"), 24), "b": easy_trials(4, ("left_hand", "feet", "rest"), 40)}


def trained(trials, rounds=3, seed=0, **changes):
    settings = dataclasses.replace(Settings(rounds=rounds, batch_size=8), **changes)
    network, state, logs = SeparateCommonSeparate(ARCHITECTURE, SHAPES, seed), None, []
    for number in range(1, rounds + 1):
        log, state = train_round(
            network,
            trials,
            settings,
            seed=derive_seed(seed, "site", number),
            optimiser_state=state,
        )
        logs.append(log)
    return network, logs, state


def test_learns_what_is_easy(trials):
    network, logs, _ = trained(trials, rounds=12)
    assert logs[-1].loss < logs[0].loss and logs[0].n_trials == 64
    for branch, n_chans, names in (("a", 3, ("left_hand", "rest")), ("b", 4, ("left_hand", "feet", "rest"))):
        new = easy_trials(n_chans, names, 60, seed=1)
        assert (predict(network, new.signals, branch).argmax(1) == new.labels).mean() > 0.9


def test_same_seed_same_bits_other_seed_other(trials):
    (a, logs_a, _), (b, logs_b, _), (c, _, _) = trained(trials), trained(trials), trained(trials, seed=1)
    assert logs_a == logs_b
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.common[0].weight, c.common[0].weight)


def test_the_optimisers_memory_is_of_private_layers_and_is_used(trials):
    network, _, state = trained(trials, rounds=1)
    assert state and not any(name.startswith("common.") for name in state)
    assert {name.rsplit("/", 1)[1] for name in state} == {"step", "exp_avg", "exp_avg_sq"}
    settings = Settings(rounds=2, batch_size=8)
    outcomes = []
    for memory in (state, None):
        again = SeparateCommonSeparate(ARCHITECTURE, SHAPES)
        again.load_state_dict(network.state_dict())
        train_round(again, trials, settings, seed=5, optimiser_state=memory)
        outcomes.append(again.extractors["of-a"].filters.spatial.detach().clone())
    assert not torch.equal(*outcomes)


def test_every_trial_is_seen_once_an_epoch(trials, monkeypatch):
    seen = []
    original = SeparateCommonSeparate.deep_features

    def watch(self, x, branch):
        seen.append((branch, len(x)))
        return original(self, x, branch)

    monkeypatch.setattr(SeparateCommonSeparate, "deep_features", watch)
    trained(trials, rounds=1)
    assert sum(n for branch, n in seen if branch == "a") == 24 and sum(n for branch, n in seen if branch == "b") == 40


def test_private_layers_train_first_and_then_stand_still(trials):
    found = {}
    for first, epochs in ((1, 0), (1, 1), (2, 0)):
        network = SeparateCommonSeparate(ARCHITECTURE, SHAPES)
        settings = Settings(batch_size=8, private_first=first, local_epochs=epochs)
        start = network.common_state()
        train_round(network, trials, settings, seed=0)
        assert all(p.requires_grad for p in network.parameters())
        moved = not torch.equal(start["common.0.weight"], network.common_state()["common.0.weight"])
        assert moved == bool(epochs)
        found[first, epochs] = network.extractors["of-a"].filters.spatial.detach().clone()
    assert torch.equal(found[1, 0], found[1, 1]) and not torch.equal(found[1, 0], found[2, 0])


def test_proximal_term_holds_common_layers_back(trials):
    moved = []
    for mu in (0.0, 10.0):
        start = SeparateCommonSeparate(ARCHITECTURE, SHAPES).common[0].weight
        network, _, _ = trained(trials, rounds=1, local_epochs=5, proximal_mu=mu)
        moved.append(float((network.common[0].weight - start).detach().norm()))
    assert moved[1] < 0.5 * moved[0]


def test_mmd_brings_branches_together(trials):
    distances = []
    for weight in (0.0, 5.0):
        network, _, _ = trained(trials, rounds=8, mmd=weight)
        network.eval()
        with torch.no_grad():
            a, b = (
                network.deep_features(torch.from_numpy(trials[k].signals[trials[k].labels == 0]), k)[0].mean(0)
                for k in ("a", "b")
            )
        distances.append(float((a - b).norm()))
    assert distances[1] < distances[0]


def test_seeds_differ_by_every_word():
    seeds = {derive_seed(*words) for words in ((0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a"))}
    assert len(seeds) == 5


def test_fine_tuning_leaves_the_network_as_it_was():
    network = SeparateCommonSeparate(Architecture(2, 128.0, extractor="riemann"), {"a": Branch(2, 2)})
    before = {k: v.clone() for k, v in network.state_dict().items()}
    rng = np.random.default_rng(0)
    own = BranchTrials(rng.standard_normal((8, 5, 3)).astype(np.float32), np.arange(8) % 2, ("left", "right"))
    tuned = fine_tune(network, own, "a", Settings(fine_tune=3), seed=1)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not torch.equal(tuned.state_dict()["common.0.weight"], before["common.0.weight"])
    same = fine_tune(network, own, "a", Settings(fine_tune=0), seed=1)
    assert all(torch.equal(before[k], v) for k, v in same.state_dict().items())


def test_sharpness_takes_the_gradient_uphill_and_comes_back():
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[3.0, 4.0]])
    network.weight.grad = torch.tensor([[6.0, 8.0]])
    with _uphill(network, 0.5):
        assert torch.allclose(network.weight.data, torch.tensor([[3.3, 4.4]]))
        network.weight.grad = torch.tensor([[1.0, 2.0]])
    assert torch.allclose(network.weight.data, torch.tensor([[3.0, 4.0]]))
    assert torch.equal(network.weight.grad, torch.tensor([[1.0, 2.0]]))


def test_training_leaves_the_callers_random_numbers_alone(trials):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    trained(trials)
    assert torch.equal(torch.rand(3), expected)


def test_the_learning_rate_follows_its_schedule():
    settings = Settings(rounds=4, lr=0.1, schedule="cosine")
    found = [settings.in_round(number).lr for number in (1, 2, 3, 4)]
    assert found == pytest.approx([0.0962, 0.0691, 0.0309, 0.0038], abs=1e-4)
    assert Settings(rounds=4, lr=0.1, schedule="constant").in_round(3).lr == 0.1


def test_the_rounds_go_by_the_schedule_from_any_of_them_on():
    settings = Settings(rounds=4, lr=0.1)
    assert [number for number, _ in rounds_of(settings)] == [1, 2, 3, 4]
    assert [now.lr for _, now in rounds_of(settings, 3)] == [settings.in_round(3).lr, settings.in_round(4).lr]


def test_nobody_else_reads_the_schedule():
    """A loop of its own forgot it once; a round by itself, at a site and in Flower's plain app, has a number."""
    root = Path(__file__).resolve().parents[2]
    files = [
        path for room in ("mfscsn", "federation", "experiments", "examples") for path in (root / room).rglob("*.py")
    ]
    read = {str(path.relative_to(root)) for path in files if ".in_round(" in path.read_text()}
    assert read == {
        "mfscsn/training.py", "federation/client_app.py", "examples/plain_flower/apps.py"
    }  # fmt: skip


def test_sharpness_sees_the_same_batch_twice(trials, monkeypatch):
    """The second pass is at another place, with the flips and the dropout of the first."""
    drawn = []
    plain = SeparateCommonSeparate.deep_features

    def noted(self, x, branch):
        drawn.append(float(torch.rand(1)))
        return plain(self, x, branch)

    monkeypatch.setattr(SeparateCommonSeparate, "deep_features", noted)
    trained({"a": trials["a"]}, rounds=1, sharpness=0.05)
    assert len(drawn) > 4 and drawn[::2] == drawn[1::2] and len(set(drawn)) == len(drawn) // 2


def test_sharpness_comes_back_from_uphill_when_a_step_fails():
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[3.0, 4.0]])
    network.weight.grad = torch.tensor([[6.0, 8.0]])
    with pytest.raises(KeyboardInterrupt), _uphill(network, 0.5):
        raise KeyboardInterrupt
    assert torch.allclose(network.weight.data, torch.tensor([[3.0, 4.0]]))


class _Sure(torch.nn.Module):
    """Logits that are the trial's own values."""

    def forward(self, x, branch):
        return x[:, :, 0]


def test_a_sure_network_still_tells_how_sure_it_is():
    """In single precision a softmax of 200 less is 0, whose logarithm is no logit any more."""
    told = predict(_Sure(), np.array([[[0.0], [200.0]], [[0.0], [300.0]]], np.float32), "a")
    np.testing.assert_allclose(np.log(told[:, 0]), [-200.0, -300.0])
