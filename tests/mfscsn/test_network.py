import pytest
import torch

from mfscsn.network import Architecture, Branch, SeparateCommonSeparate

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
