"""A graphics card does what the processor does; where none is, that is said. Without one its tests are skipped."""

import numpy as np
import pytest
import torch
from torch import nn

from mfscsn.branch import Branch, BranchTrials
from mfscsn.classifier import MFSCSNClassifier
from mfscsn.device import found_device, held_on
from mfscsn.heads import start_by_label
from mfscsn.network import Anchored, Architecture
from mfscsn.settings import Settings
from mfscsn.training import train_round

ELECTRODES = ("C3", "Cz", "C4", "CP3", "CP4")
LABELS = ("left_hand", "right_hand")
card = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no graphics card here")


def test_auto_is_a_card_where_there_is_one(monkeypatch):
    for seen, found in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        assert found_device("auto") == found and found_device("cpu") == "cpu"
        if seen:
            assert found_device("cuda") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match='device = "cuda", but torch sees no graphics card here; take "cpu"'):
        found_device("cuda")
    X, y = np.random.default_rng(0).normal(size=(4, 3, 256)), [0, 1, 0, 1]
    with pytest.raises(ValueError, match="no graphics card"):
        MFSCSNClassifier(device="cuda", epochs=1).fit(X, y)


def test_others_random_numbers_are_left_as_they_were_even_where_training_fails():
    network = nn.Linear(1, 1)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with pytest.raises(RuntimeError, match="stop"), held_on(network, "cpu"):
        torch.rand(7)
        raise RuntimeError("stop")
    assert torch.equal(torch.rand(3), expected)


def three_rounds(device, train, drop=0.0, **changes):
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    signals = rng.normal(size=(48, len(ELECTRODES), 256)).astype(np.float32)
    signals[labels == 0, 0] *= 2
    trials = {"a": BranchTrials(signals, labels, LABELS)}
    network = Anchored(
        Architecture(256, 128.0, "common-space", electrodes=ELECTRODES), {"a": Branch(5, 2, LABELS)}, seed=0
    )
    start_by_label(network.head("a"), LABELS, 0)
    network.anchor_heads()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = drop  # each device draws its own
    settings, state, logs = Settings(rounds=3, batch_size=16, **changes), None, []
    for number in range(1, 4):
        log, state = train(network, trials, settings, seed=number, optimiser_state=state, device=device)
        logs.append(log)
    return network, state, logs


@card
@pytest.mark.parametrize("changes", [{}, {"proximal_mu": 0.1}, {"sharpness": 0.05}, {"private_first": 1}])
def test_a_card_trains_as_the_processor_does(changes):
    (a, state_a, logs_a), (b, state_b, logs_b) = (three_rounds(d, train_round, **changes) for d in ("cpu", "cuda"))
    start, _, _ = three_rounds("cpu", lambda *_, **__: (None, None))
    for name, value in a.state_dict().items():
        moved = (value - start.state_dict()[name]).float().abs().max()
        assert b.state_dict()[name].device.type == "cpu"
        assert (value - b.state_dict()[name]).float().abs().max() <= 1e-4 + 0.02 * moved, name
    assert all(value.device.type == "cpu" for value in state_b.values()) and state_a.keys() == state_b.keys()
    assert [x.loss for x in logs_a] == pytest.approx([x.loss for x in logs_b], rel=1e-3)


@card
def test_a_cards_dropout_repeats_with_its_seed():
    (a, _, _), (b, _, _) = (three_rounds("cuda", train_round, drop=0.5) for _ in range(2))
    for name, value in a.common_state().items():
        assert torch.allclose(value, b.common_state()[name], atol=1e-4), name
