"""Bodies: the fused form against the plain one, and against braindecode's EEGNet where the two are one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mfscsn import bodies, riemann
from mfscsn.bodies import EEGNetBody, TangentBody, build_body, filtered
from mfscsn.branch import Branch
from mfscsn.common_space import ELECTRODES
from mfscsn.network import Architecture


@pytest.mark.parametrize("kernel", [1, 2, 16, 63, 64])
def test_filtering_by_spectra_is_a_convolution_with_a_group_a_filter(kernel):
    torch.manual_seed(0)
    x, spatial, kernels = torch.randn(3, 5, 100), torch.randn(4, 5), torch.randn(4, kernel)
    padded = F.pad(spatial @ x, (kernel // 2, (kernel - 1) // 2))
    expected = F.conv1d(padded, kernels[:, None], groups=4)
    torch.testing.assert_close(filtered(x, spatial, kernels), expected, rtol=0, atol=5e-5)


def test_it_is_eegnet_where_the_norm_between_its_first_two_filters_does_nothing():
    """braindecode's network with our weights in its layers, in evaluation."""
    braindecode = pytest.importorskip("braindecode.models")
    torch.manual_seed(0)
    ours = EEGNetBody(5, 128, 128.0, n_temporal=3, depth=2, n_features=7, kernels=(0.5, 0.5)).eval()
    theirs = braindecode.EEGNet(
        n_chans=5, n_outputs=2, n_times=128, F1=3, D=2, F2=7, kernel_length=64, depthwise_kernel_length=16
    ).eval()
    norms = [nn.BatchNorm1d(size, 1e-3, affine=False).eval() for size in ours.norm_sizes]
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    for scale, shift in zip(ours.scales, ours.shifts, strict=True):
        nn.init.uniform_(scale, 0.5, 2.0)
        nn.init.normal_(shift)
    convolutions = [m for m in theirs.modules() if isinstance(m, nn.Conv2d)]
    between, first, second = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for convolution, weight in zip(
            convolutions[:4], (ours.temporal, ours.spatial, ours.separable, ours.pointwise), strict=True
        ):
            shape = convolution.weight.shape
            target = (
                convolution.parametrizations.weight.original
                if nn.utils.parametrize.is_parametrized(convolution)
                else convolution.weight
            )
            target.copy_(weight.reshape(shape))
        between.running_mean.zero_()
        between.running_var.fill_(1 - between.eps)
        for norm, mine, scale, shift in zip((first, second), norms, ours.scales, ours.shifts, strict=True):
            norm.running_mean.copy_(mine.running_mean)
            norm.running_var.copy_(mine.running_var)
            norm.eps = mine.eps
            norm.weight.copy_(scale)
            norm.bias.copy_(shift)
    x = torch.randn(4, 5, 128)
    seen = []
    theirs.final_layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(1)))
    theirs(x)
    torch.testing.assert_close(ours(x, norms), seen[0], rtol=0, atol=2e-4)


def test_a_trial_too_short_for_its_poolings_is_refused():
    with pytest.raises(ValueError, match="n_times=20 at 128 Hz is too short: pooling needs 32 samples"):
        EEGNetBody(21, 20, 128.0)


def test_tangent_vectors_of_the_mirrored_head_are_the_same_numbers_elsewhere():
    across = [2, 1, 0, 4, 3]
    matrices = np.random.default_rng(0).normal(size=(6, 3, 5, 5))
    matrices = matrices + matrices.swapaxes(-1, -2)
    vectors, images = (torch.from_numpy(riemann.upper(m)) for m in (matrices, matrices[..., across, :][..., across]))
    assert torch.equal(TangentBody.image(vectors, torch.tensor(across)), images)
    body = TangentBody(5, 128, 128.0, (9.0, 22.0))  # the middles of three bands lie in it
    assert body.eval()(vectors, []).shape == (6, 50)


def test_signals_of_the_mirrored_head_are_the_same_channels_elsewhere():
    x = torch.randn(2, 3, 10)
    assert torch.equal(EEGNetBody.image(x, torch.tensor([2, 1, 0])), x.flip(1))


def test_any_model_of_braindecode_can_be_the_body():
    body = build_body("braindecode:EEGNet", 11, 256, 128.0, None)
    assert body.eval()(torch.randn(3, 11, 256), []).shape == (3, body.n_features)
    network = Architecture(
        256, 128.0, extractor="common-space", electrodes=ELECTRODES["motor11"], body="braindecode:EEGNet"
    ).build({"a": Branch(5, 2, ("left_hand", "right_hand"))})
    assert network(torch.randn(3, 11, 256), "a").shape == (3, 2)
    common, private = network.common_state(), network.private_state()
    assert all(name.startswith("body.model.") for name in common) and len(common) > 5
    assert not [name for name in common if "final_layer" in name or "running" in name]
    assert [name for name in private if "running_mean" in name]
    network.fit_norms(3 * torch.randn(40, 11, 256) + 1, "a")  # of an unseen headset
    moved = network.private_state()
    averages = [name for name in private if "running_var" in name]
    assert averages and not any(torch.equal(moved[name], private[name]) for name in averages)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eegnett", "no body 'eegnett'; there are eegnet, tangent, and braindecode:MODEL"),
        ("braindecode:EEGNett", "braindecode has no model 'EEGNett'; did you mean 'EEGNet'"),
        ("braindecode:ATCNet", "ATCNet cannot take 11 electrodes x 40 samples at 128 Hz, or has no final layer"),
        ("braindecode:ShallowFBCSPNet", "ShallowFBCSPNet cannot take 11 electrodes x 40 samples"),
    ],
)
def test_a_body_that_is_not_there_or_does_not_fit_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        build_body(name, 11, 40, 128.0, None)


def test_our_elu_is_torchs():
    x = torch.cat([torch.randn(1000) * 5, torch.tensor([1e-8, -1e-8, 90.0, -90.0])]).requires_grad_()
    ours, torchs = bodies.elu(x), torch.nn.functional.elu(x)
    assert torch.equal(ours, torchs)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, torchs)]
    torch.testing.assert_close(*gradients)
