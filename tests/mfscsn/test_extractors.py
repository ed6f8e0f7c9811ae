import pytest
import torch
from braindecode.models import ShallowFBCSPNet
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mfscsn.branch import Branch
from mfscsn.extractors import ShallowExtractor, fused_convolution, fused_convolution_by_fourier
from mfscsn.network import Architecture, ExtractorAlone


def copy_from_braindecode(theirs: ShallowFBCSPNet, ours: ExtractorAlone) -> None:
    """Copy weights; their temporal bias becomes a constant that batch norm's running mean takes away."""
    parts = dict(theirs.named_modules())
    time, spat, norm = parts["conv_time_spat.conv_time"], parts["conv_time_spat.conv_spat"], parts["bnorm"]
    temporal, spatial = time.weight[:, 0, :, 0], spat.weight[:, :, 0, :]
    with torch.no_grad():
        ours.extractor.filters.temporal.copy_(temporal)
        ours.extractor.filters.spatial.copy_(spatial)
        constant = torch.einsum("ofc,f->o", spatial, time.bias)
        ours.extractor.norm.weight.copy_(norm.weight)
        ours.extractor.norm.bias.copy_(norm.bias)
        ours.extractor.norm.running_mean.copy_(norm.running_mean - constant)
        ours.extractor.norm.running_var.copy_(norm.running_var)
        classifier = parts["final_layer.conv_classifier"]
        ours.classifier.weight.copy_(classifier.weight[..., 0].flatten(1))
        ours.classifier.bias.copy_(classifier.bias)


@pytest.mark.parametrize(("n_chans", "n_times", "n_outputs"), [(22, 1000, 4), (3, 750, 2)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_braindecode(n_chans, n_times, n_outputs, training):
    torch.manual_seed(0)
    theirs = ShallowFBCSPNet(n_chans, n_outputs, n_times=n_times, sfreq=250, final_conv_length="auto", drop_prob=0.0)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    ours = ExtractorAlone(Architecture(n_times, 250.0, extractor="shallow"), {"a": Branch(n_chans, n_outputs)})
    ours.extractor.drop.p = 0.0
    copy_from_braindecode(theirs, ours)
    theirs.train(training)
    ours.train(training)
    x = torch.randn(8, n_chans, n_times)
    assert torch.allclose(theirs(x), ours(x, "a"), atol=1e-4)


@pytest.mark.parametrize("sfreq", [100.0, 128.0, 250.0, 512.0])
def test_says_its_output_shape(sfreq):
    extractor = ShallowExtractor(5, round(3 * sfreq), sfreq)
    out = extractor(torch.randn(2, 5, round(3 * sfreq)))
    assert out.shape == (2, extractor.n_features, extractor.n_steps)


def test_shape_behind_the_extractor_depends_on_no_headset():
    shapes = {ShallowExtractor(n, 384, 128.0).n_steps for n in (1, 3, 64)}
    assert len(shapes) == 1


def test_a_trial_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="n_times=40 at 128 Hz is too short: filter and pooling need 50 samples"):
        ShallowExtractor(3, 40, 128.0)


@given(
    n_chans=st.integers(1, 12),
    kernel=st.integers(1, 30),
    n_steps=st.integers(1, 90),
    seed=st.integers(0, 1000),
)
def test_fourier_form_equals_the_plain_convolution_in_value_and_gradient(n_chans, kernel, n_steps, seed):
    torch.manual_seed(seed)
    x = torch.randn(3, n_chans, kernel + n_steps - 1, dtype=torch.float64)
    spatial, temporal = torch.randn(4, 5, n_chans, dtype=torch.float64), torch.randn(5, kernel, dtype=torch.float64)
    found = []
    for form in (fused_convolution, fused_convolution_by_fourier):
        weights = [spatial.clone().requires_grad_(), temporal.clone().requires_grad_()]
        out = form(x, *weights)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), weights)])
    assert found[0][0].shape == (3, 4, n_steps)
    for plain, fourier in zip(*found, strict=True):
        torch.testing.assert_close(fourier, plain)


def test_the_fourier_form_is_taken_for_long_kernels():
    assert ShallowExtractor(64, 640, 250.0).filters.convolve is fused_convolution_by_fourier
    assert ShallowExtractor(64, 416, 128.0).filters.convolve is fused_convolution
    assert ShallowExtractor(3, 640, 250.0).filters.convolve is fused_convolution


def test_the_fourier_form_in_single_precision():
    torch.manual_seed(0)
    x, spatial, temporal = torch.randn(60, 64, 640), torch.randn(40, 40, 64) * 0.02, torch.randn(40, 25) * 0.1
    plain, fourier = (form(x, spatial, temporal) for form in (fused_convolution, fused_convolution_by_fourier))
    assert (plain - fourier).abs().max() < 1e-5 * plain.abs().max()
