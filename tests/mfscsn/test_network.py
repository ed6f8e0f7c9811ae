import numpy as np
import pytest
import torch

from mfscsn import bodies
from mfscsn.branch import Branch, BranchTrials
from mfscsn.common_space import ELECTRODES, mirrored
from mfscsn.losses import class_weights
from mfscsn.network import Anchored, Architecture, SeparateCommonSeparate
from mfscsn.settings import Settings
from mfscsn.training import fine_tune, train_round

SHAPES = {"a": Branch(4, 2), "b": Branch(7, 3)}
ARCHITECTURE = Architecture(n_times=256, sfreq=128.0)


def test_each_branch_has_its_own_channels_and_outputs():
    network = SeparateCommonSeparate(ARCHITECTURE, SHAPES)
    assert network(torch.randn(5, 4, 256), "a").shape == (5, 2)
    assert network(torch.randn(5, 7, 256), "b").shape == (5, 3)
    *deep, logits = network.deep_features(torch.randn(5, 4, 256), "a")
    assert [tuple(x.shape) for x in deep] == [(5, 50)] and logits.shape == (5, 2)


def test_common_state_is_the_middle_and_holds_no_buffer():
    network = SeparateCommonSeparate(ARCHITECTURE, SHAPES)
    common, private = network.common_state(), network.private_state()
    assert set(common) == {"common.0.weight", "common.0.bias"}
    assert set(common) | set(private) == set(network.state_dict()) and not set(common) & set(private)
    assert any("running_mean" in name for name in private)


@pytest.mark.parametrize("share", ["all-but-head", "all"])
def test_buffers_stay_private_even_when_all_layers_are_shared(share):
    architecture = Architecture(256, 128.0, share=share)
    network = SeparateCommonSeparate(architecture, {"a": Branch(4, 2), "b": Branch(4, 2)})
    buffers = {name for name, _ in network.named_buffers()}
    assert buffers and not buffers & set(network.common_state())
    assert any(name.startswith("extractors.shared.") for name in network.common_state())
    assert any(name.startswith("heads.shared.") for name in network.common_state()) == (share == "all")


def test_heads_are_shared_by_headsets_that_differ():
    network = SeparateCommonSeparate(
        Architecture(256, 128.0, share="all-but-extractor"), {"a": Branch(4, 3), "b": Branch(7, 3)}
    )
    assert {name.split(".")[0] for name in network.common_state()} == {"common", "heads"}
    assert any(name.startswith("extractors.of-a.") for name in network.private_state())


def test_sharing_nothing_leaves_nothing_to_send():
    assert SeparateCommonSeparate(Architecture(256, 128.0, share="none"), SHAPES).common_state() == {}


def test_sharing_extractors_needs_one_shape():
    with pytest.raises(ValueError, match=r"share='all-but-head' needs branches of one shape, found \[4, 7\]"):
        SeparateCommonSeparate(Architecture(256, 128.0, share="all-but-head"), SHAPES)


def test_sites_of_one_seed_start_with_the_same_common_layers():
    here = SeparateCommonSeparate(ARCHITECTURE, {"a": Branch(4, 2)}, seed=3).common_state()
    there = SeparateCommonSeparate(ARCHITECTURE, {"b": Branch(7, 3)}, seed=3).common_state()
    other = SeparateCommonSeparate(ARCHITECTURE, {"b": Branch(7, 3)}, seed=4).common_state()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert not torch.equal(here["common.0.weight"], other["common.0.weight"])


def test_building_a_network_leaves_the_callers_randomness_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    SeparateCommonSeparate(ARCHITECTURE, SHAPES, seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_loading_other_layers_names_the_fault():
    network = SeparateCommonSeparate(ARCHITECTURE, SHAPES)
    state = network.common_state()
    with pytest.raises(ValueError, match="common layer 'common.0.bias' is missing"):
        network.load_common({k: v for k, v in state.items() if k != "common.0.bias"})
    with pytest.raises(ValueError, match="common layer 'heads.a.0.bias' is unknown"):
        network.load_common(state | {"heads.a.0.bias": torch.zeros(50)})
    with pytest.raises(ValueError, match=r"'common.0.bias' has shape \(3,\), expected \(50,\)"):
        network.load_common(state | {"common.0.bias": torch.zeros(3)})


def test_loading_common_layers_changes_no_private_one():
    network = SeparateCommonSeparate(ARCHITECTURE, SHAPES)
    before = network.private_state()
    network.load_common({k: v + 1 for k, v in network.common_state().items()})
    assert all(torch.equal(before[k], v) for k, v in network.private_state().items())


MOTOR = ELECTRODES["motor11"]
IN_SPACE = Architecture(128, 128.0, extractor="common-space", electrodes=MOTOR)
HANDS = Branch(5, 2, ("left_hand", "right_hand"))
THREE = Branch(9, 3, ("rest", "right_hand", "left_hand"))
GRASP = Branch(9, 2, ("right_hand", "rest"))


def in_space(n_trials=8, n_outputs=2):
    torch.manual_seed(0)
    signals = torch.randn(n_trials, 11, 128)
    return signals, torch.arange(n_trials) % n_outputs


def test_in_the_common_space_the_body_is_common_and_headsets_do_not_matter():
    network = IN_SPACE.build({"a": HANDS, "b": THREE})
    assert isinstance(network, Anchored)
    common, private = network.common_state(), network.private_state()
    assert {name.split(".")[0] for name in common} == {"body"}
    assert {name.split(".")[0] for name in private} == {"norms", "heads", "anchor_of-a", "anchor_of-b"}
    assert {name for name, _ in network.named_buffers()} <= set(private)  # averages over the site's own signals
    assert sum(value.numel() for value in common.values()) < 10_000
    assert network(in_space()[0], "a").shape == (8, 2) and network(in_space()[0], "b").shape == (8, 3)
    assert IN_SPACE.build({"other": Branch(64, 5)}).common_state().keys() == common.keys()


def test_heads_learn_and_are_pulled_back_to_where_they_began():
    network = IN_SPACE.build({"a": HANDS})
    signals, labels = in_space()
    trials = BranchTrials(signals.numpy(), labels.numpy(), HANDS.labels)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train_round(network, {"a": trials}, Settings(lr=0.01), seed=0)
    after = network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "num_batches" not in name and not name.startswith("anchor")}
    anchor, head = before["heads.of-a.weight"], network.head("a")
    with torch.no_grad():
        head.weight.copy_(anchor + 1)
        head.bias.fill_(1.0)
    network.after_step(0.1 / network.pull)
    torch.testing.assert_close(head.weight.detach(), anchor + 0.9)
    torch.testing.assert_close(head.bias.detach(), torch.full((2,), 0.9))


def test_norms_are_fitted_on_trials_and_their_images_without_a_label(monkeypatch):
    network = IN_SPACE.build({"a": HANDS, "b": HANDS})
    signals, _ = in_space(600)
    signals = 3 * signals + 1
    signals[:, MOTOR.index("C3")] *= 4  # one side louder: images must move the averages
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.fit_norms(signals, "a", batch_size=300)
    image = signals[:, [MOTOR.index(mirrored(name)) for name in MOTOR]]
    seen, normed = [], bodies._normed
    monkeypatch.setattr(bodies, "_normed", lambda x, norm, *rest: seen.append((x, norm)) or normed(x, norm, *rest))
    network(signals, "a")
    for norm in network.norms["of-a"]:
        values = torch.cat([x for x, of in seen if of is norm]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, values.mean(1), atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(norm.running_var, values.var(1), atol=2e-2, rtol=2e-2)
    assert not torch.equal(image, signals)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("norms.of-a.") for name in changed)


@pytest.mark.parametrize(("shape", "swapped"), [(HANDS, [1, 0]), (THREE, [0, 2, 1])])
def test_a_mirrored_trial_has_the_mirrored_answer(shape, swapped):
    network = IN_SPACE.build({"a": shape}).eval()
    signals, _ = in_space()
    image = signals[:, [MOTOR.index(mirrored(name)) for name in MOTOR]]
    torch.testing.assert_close(network(image, "a"), network(signals, "a")[:, swapped])
    network.train()
    network.body.drop.p = 0.0
    assert not torch.allclose(network(image, "a"), network(signals, "a")[:, swapped])  # the body itself need not


def test_a_batch_is_mirrored_by_half_with_its_labels():
    network = IN_SPACE.build({"a": THREE})
    signals, labels = in_space(600, 3)
    across = [MOTOR.index(mirrored(name)) for name in MOTOR]
    shown, targets = network.augmented(signals, labels, "a")
    flipped = ~(shown == signals).all(dim=(1, 2))
    assert 200 < int(flipped.sum()) < 400
    assert torch.equal(shown[flipped], signals[flipped][:, across]) and torch.equal(targets[~flipped], labels[~flipped])
    assert torch.equal(targets[flipped], torch.tensor([0, 2, 1])[labels[flipped]])


@pytest.mark.parametrize(
    ("electrodes", "shape"),
    [(MOTOR, GRASP), (("C3", "Cz"), HANDS), (MOTOR, Branch(3, 2, ("hands", "feet"))), (MOTOR, Branch(3, 2))],
)
def test_without_a_mirror_image_nothing_is_mirrored(electrodes, shape):
    network = Architecture(128, 128.0, extractor="common-space", electrodes=electrodes).build({"a": shape}).eval()
    signals, labels = in_space()
    signals = signals[:, : len(electrodes)]
    assert network.augmented(signals, labels, "a")[0] is signals
    torch.testing.assert_close(network(signals, "a"), network.deep_features(signals, "a")[-1])


@pytest.mark.parametrize(
    ("share", "common", "held"),
    [
        ("middle", {"body", "scales"}, True),
        ("none", set(), True),
        ("all-but-head", {"body", "scales"}, False),
        ("all-but-norm", {"body", "heads"}, False),
        ("all", {"body", "scales", "heads"}, False),
    ],
)
def test_what_is_common_in_the_common_space_and_which_heads_are_held(share, common, held):
    architecture = Architecture(128, 128.0, extractor="common-space", electrodes=MOTOR, share=share)
    network = architecture.build({"a": HANDS, "b": HANDS})
    names = network.common_state()
    found = {part for part in ("heads", "scales") if any(part in name for name in names)}
    assert found | ({"body"} if "body.spatial" in names else set()) == common
    assert bool(network.pull) == held
    assert not any("running" in name for name in names)


def test_a_common_head_in_the_common_space_needs_one_list_of_labels():
    three = Branch(3, 3, ("left_hand", "right_hand", "rest"))
    with pytest.raises(ValueError, match=r"share='all' needs branches of one shape, found \[2, 3\]"):
        Architecture(128, 128.0, extractor="common-space", electrodes=MOTOR, share="all").build(
            {"a": HANDS, "b": three}
        )


def test_a_label_that_only_images_have_weighs_as_much_as_others():
    """Right hand and rest: half of the right hands are shown as left ones, and each of three labels has a third."""
    network = IN_SPACE.build({"b": THREE})
    labels = torch.tensor([0] * 6 + [1] * 6)  # rest, right_hand
    torch.testing.assert_close(network.shown_counts(labels, 3, "b"), torch.tensor([6.0, 3.0, 3.0]))
    weights = class_weights(network.shown_counts(labels, 3, "b"))
    torch.testing.assert_close(weights, torch.tensor([12 / 18, 12 / 9, 12 / 9]))
    grasp = IN_SPACE.build({"g": GRASP})  # without left_hand there is no image
    torch.testing.assert_close(grasp.shown_counts(labels[:9], 2, "g"), torch.tensor([6.0, 3.0]))


@pytest.mark.parametrize("seed", range(20))
def test_fine_tuning_on_trials_of_one_class_stays_finite(seed):
    """All three may be mirrored at once: then all of a batch is of a label that no trial has."""
    network = IN_SPACE.build({"a": HANDS})
    signals, _ = in_space(3)
    own = BranchTrials(signals.numpy(), np.zeros(3, np.int64), HANDS.labels)
    tuned = fine_tune(network, own, "a", Settings(fine_tune=2), seed)
    assert all(values.isfinite().all() for values in tuned.state_dict().values())


def test_fine_tuning_that_leaves_no_number_says_so(monkeypatch):
    network = IN_SPACE.build({"a": HANDS})
    signals, labels = in_space(4)
    own = BranchTrials(signals.numpy(), labels.numpy(), HANDS.labels)

    def spoils(network, *words, **named):
        network.head("a").weight.data.fill_(torch.nan)

    monkeypatch.setattr("mfscsn.training.train_round", spoils)
    with pytest.raises(ValueError, match="fine-tuning on 4 trials gave a value that is not finite"):
        fine_tune(network, own, "a", Settings(fine_tune=1), 0)


def test_a_last_batch_of_one_trial_weighs_as_one_trial_in_the_norms():
    signals, _ = in_space(5)
    signals[-1] *= 50
    found = []
    for size in (4, 5):
        network = IN_SPACE.build({"a": Branch(5, 2, ("feet", "rest"))})  # no images
        network.fit_norms(signals, "a", batch_size=size)
        found.append(network.norms["of-a"][0].running_mean.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
