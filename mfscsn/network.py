"""The separate-common-separate network: own first layers, common middle layers, own last layers.

::

    branch A   signals (batch, n_chans_A, n_times) -> extractor A \\                     / head A -> n_outputs_A
                                                                   -> common layers ->
    branch B   signals (batch, n_chans_B, n_times) -> extractor B /                     \\ head B -> n_outputs_B

A **branch** is the separate part of one data set (or of one subject). Only the common layers are ever sent to a
server.

`Anchored` is the form that gains by sharing: its separate first layer is nothing that is learned but the way to the
common space (`mfscsn.common_space`), so all that decodes is common, and its heads are held to their labels' names. In
`SeparateCommonSeparate` both ends are learned and free, so they can undo whatever the common layers say.

References
----------
SCSN: Wei, Ortega, Faisal 2021, "Inter-subject deep transfer learning for motor imagery EEG decoding", IEEE NER.
MF-SCSN: Wei, Faisal 2022, "Federated deep transfer learning for EEG decoding using multiple BCI tasks",
arXiv:2211.10976.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from mfscsn import riemann
from mfscsn.bodies import build_body, elu
from mfscsn.branch import Branch
from mfscsn.choices import COMMON_SPACE, MEANS, SHARES_EXTRACTOR, SHARES_HEAD, SUMS, Share
from mfscsn.extractors import EXTRACTORS, ShallowExtractor, TangentExtractor
from mfscsn.split import SplitModule, image_of
from mfscsn.sums import Summed

SHARED = "shared"
NORM_EPS = 1e-3
PULL = 10.0  # of heads to their labels' rows, as a weight decay


@dataclass(frozen=True)
class Architecture:
    """What all sites must agree on about the network.

    Parameters
    ----------
    n_times, sfreq : int, float
        Samples of a trial and their rate in Hz.
    extractor : str
        A key of `mfscsn.extractors.EXTRACTORS`, or "common-space": then the network is `Anchored`.
    band : pair of float, optional
        Hz, that trials were filtered to; the extractor "riemann" leaves out its bands that lie elsewhere.
    width : int
        Units of the common layer, a convolution over all steps.
    share : {"middle", "none", "all-but-head", "all-but-extractor", "all-but-norm", "all"}
        Which layers are common: MF-SCSN's middle ones, none (every site for itself), all but the heads (FedPer),
        all but the extractors (FLEEG), all but the batch norms (FedBN) or all (FedAvg). One channel list is needed
        where extractors are shared, one label list where heads are.
    electrodes : tuple of str
        Of the common space.
    body : str
        What decodes in the common space: as `mfscsn.bodies.build_body` takes it, or one of `mfscsn.sums`.
    """

    n_times: int
    sfreq: float
    extractor: str = "shallow"
    band: tuple[float, float] | None = None
    width: int = 50
    share: Share = "middle"
    electrodes: tuple[str, ...] = ()
    body: str = "eegnet"

    def build(self, branches: Mapping[str, Branch], seed: int = 0) -> "SplitModule":
        """Make a network of branches around the common layers; the same seed gives the same weights.

        Raises
        ------
        ValueError
            When trials are too short for it, or its parts do not fit one another.
        """
        if self.extractor != COMMON_SPACE:
            return SeparateCommonSeparate(self, branches, seed)
        if self.body in (SUMS, MEANS):
            n_views = riemann.n_views(self.n_times, self.sfreq, self.band)
            return Summed(self.body, n_views, self.electrodes, branches, common=self.share != "none")
        return Anchored(self, branches, seed)

    def build_alone(self, branches: Mapping[str, Branch], seed: int = 0) -> "SplitModule":
        """Make the network that one site or subject, given as the one branch, would train by itself."""
        if self.extractor == COMMON_SPACE:
            return replace(self, share="none").build(branches, seed)
        return ExtractorAlone(self, branches, seed)

    def build_extractor(self, n_chans: int) -> ShallowExtractor | TangentExtractor:
        """Make an extractor for a headset; raise ValueError when trials are too short for it, or its band is empty."""
        if self.extractor == "riemann":
            return TangentExtractor(n_chans, self.n_times, self.sfreq, band=self.band)
        return EXTRACTORS[self.extractor](n_chans, self.n_times, self.sfreq)


class Anchored(SplitModule):
    """A body in the common space, common as a whole, between ends that are fixed or held.

    ::

        trial --common space (`mfscsn.inputs`)--> z (batch, n_electrodes, n_times) --body--> features --head--> logits

    The running averages of the body's norms are the site's, for each branch. A head is the site's own too, and is held:
    its rows begin as drawn by their labels' names (`mfscsn.heads`) and are pulled back there while they
    learn. So the heads of all sites ask the common layers for nearly the same thing, a site whose tasks or amplifier
    differ need not give way, and a label that a site has never seen has a row.

    A brain is nearly symmetric. Where electrodes and labels have a mirror image (C3 and C4, left_hand and right_hand),
    half of a training batch is mirrored, and a prediction is the mean of what is said of a trial and of its image.

    Where `Architecture.share` is another's method, nothing holds the heads: common ones of one label list, or own ones.

    Parameters
    ----------
    architecture : Architecture
    branches : mapping of str to Branch
        At least one.
    seed : int
        Of the first weights.
    """

    def __init__(self, architecture: Architecture, branches: Mapping[str, Branch], seed: int = 0):
        super().__init__()
        if not branches:
            raise ValueError("a network needs at least one branch")
        a = self.architecture = architecture
        shares_head = a.share in SHARES_HEAD
        self.pull = PULL if a.share in ("middle", "none") else 0.0
        _check_one_shape(a.share, {b.n_outputs for b in branches.values()} if shares_head else set())
        self.head_of = {name: SHARED if shares_head else f"of-{name}" for name in branches}
        self.common_prefixes = () if a.share == "none" else ("body.", "heads.") if shares_head else ("body.",)
        self.private_parts = (".scales.", ".shifts.") if a.share == "all-but-norm" else ()
        self.branches = dict(branches)
        self.images = {name: image_of(a.electrodes, branch.labels) for name, branch in branches.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = build_body(a.body, len(a.electrodes), a.n_times, a.sfreq, a.band)
            self.norms, self.heads = nn.ModuleDict(), nn.ModuleDict()
            for name, branch in branches.items():
                self.norms[f"of-{name}"] = nn.ModuleList(
                    [nn.BatchNorm1d(size, NORM_EPS, affine=False) for size in self.body.norm_sizes]
                )
                if self.head_of[name] not in self.heads:
                    self.heads[self.head_of[name]] = nn.Linear(self.body.n_features, branch.n_outputs)
        self.anchor_heads()

    def head(self, branch: str) -> nn.Linear:
        """Return the last layer of a branch."""
        return cast(nn.Linear, self.heads[self.head_of[branch]])

    def anchor_heads(self) -> None:
        """Hold each head to the rows that it has now."""
        for name, head in self.heads.items():
            self.register_buffer(f"anchor_{name}", cast(nn.Linear, head).weight.detach().clone())

    def fit_norms(self, x: Tensor, branch: str, batch_size: int = 256) -> None:
        """Fit the running averages of a branch, and of the body's own norms, on trials as `forward` takes them.

        No label is looked at. Images count too, where the branch has them, as they do in training.
        """
        image = self.images[branch]
        self.eval()
        of_body = [module for module in self.body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in [*cast(nn.ModuleList, self.norms[f"of-{branch}"]), *of_body]:  # each sees what is before it
            assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
            momentum = norm.momentum
            norm.train()
            with torch.no_grad():
                seen = 0
                for part in torch.split(x, batch_size):
                    seen += len(part)
                    norm.momentum = len(part) / seen  # the mean of all batches, each by its trials
                    shown = part if image is None else torch.cat([part, self.body.image(part, image[0])])
                    self.deep_features(shown, branch)
            norm.eval()
            norm.momentum = momentum

    def after_step(self, lr: float) -> None:
        """Pull the heads back by a share of the way, as weight decay pulls to zero."""
        share = min(1.0, lr * self.pull)
        with torch.no_grad():
            for name, module in self.heads.items():
                head = cast(nn.Linear, module)
                head.weight.lerp_(self.get_buffer(f"anchor_{name}"), share)
                head.bias.mul_(1 - share)

    def augmented(self, x: Tensor, labels: Tensor, branch: str) -> tuple[Tensor, Tensor]:
        """Mirror half of a training batch, signals and labels, where the branch has a mirror image."""
        image = self.images[branch]
        if image is None:
            return x, labels
        electrodes, outputs = image
        flipped = torch.rand(len(x)) < 0.5
        x = torch.where(flipped.to(x.device)[:, None, None], self.body.image(x, electrodes), x)
        return x, torch.where(flipped, outputs[labels], labels)

    def shown_counts(self, labels: Tensor, n_outputs: int, branch: str) -> Tensor:
        """Return how many trials of each output training shows: of each trial, half are mirrored.

        A label that only mirror images have counts too: it would weigh nothing.
        """
        counts, image = super().shown_counts(labels, n_outputs, branch), self.images[branch]
        return counts if image is None else (counts + counts[image[1]]) / 2

    def deep_features(self, x: Tensor, branch: str) -> list[Tensor]:
        """Return the body's features ``(batch, n_features)`` and the logits ``(batch, n_outputs)``."""
        features = self.body(x, list(self.norms[f"of-{branch}"]))  # type: ignore[call-overload]
        return [features, self.head(branch)(features)]

    def forward(self, x: Tensor, branch: str) -> Tensor:
        """Map trials in the common space ``(batch, n_electrodes, n_times)`` to logits ``(batch, n_outputs)``."""
        logits = self.deep_features(x, branch)[-1]
        image = self.images[branch]
        if self.training or image is None:
            return logits
        electrodes, outputs = image
        return (logits + self.deep_features(self.body.image(x, electrodes), branch)[-1][:, outputs]) / 2


def _check_one_shape(share: str, sizes: set[int]) -> None:
    if len(sizes) > 1:
        raise ValueError(f"share={share!r} needs branches of one shape, found {sorted(sizes)}")


class SeparateCommonSeparate(SplitModule):
    """Branches around common layers.

    Parameters
    ----------
    architecture : Architecture
    branches : mapping of str to Branch
        At least one.
    seed : int
        Of the first weights. Sites that give the same seed start with the same common layers.
    """

    def __init__(self, architecture: Architecture, branches: Mapping[str, Branch], seed: int = 0):
        super().__init__()
        if not branches:
            raise ValueError("a network needs at least one branch")
        a = self.architecture = architecture
        self.branches = dict(branches)
        shares_extractor, shares_head = a.share in SHARES_EXTRACTOR, a.share in SHARES_HEAD
        _check_one_shape(a.share, {b.n_chans for b in branches.values()} if shares_extractor else set())
        _check_one_shape(a.share, {b.n_outputs for b in branches.values()} if shares_head else set())
        self.extractor_of = {name: SHARED if shares_extractor else f"of-{name}" for name in branches}
        self.head_of = {name: SHARED if shares_head else f"of-{name}" for name in branches}
        self.common_prefixes = {
            "none": (),
            "middle": ("common.",),
            "all-but-head": ("common.", "extractors."),
            "all-but-extractor": ("common.", "heads."),
            "all-but-norm": ("common.", "extractors.", "heads."),
            "all": ("common.", "extractors.", "heads."),
        }[a.share]
        self.private_parts = (".norm.",) if a.share == "all-but-norm" else ()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            probe = a.build_extractor(1)
            # A convolution over all steps at once is a linear map of the flattened features
            self.common = nn.ModuleList([nn.Linear(probe.n_features * probe.n_steps, a.width)])
            self.extractors, self.heads = nn.ModuleDict(), nn.ModuleDict()
            for name, branch in branches.items():
                if self.extractor_of[name] not in self.extractors:
                    self.extractors[self.extractor_of[name]] = a.build_extractor(branch.n_chans)
                if self.head_of[name] not in self.heads:
                    self.heads[self.head_of[name]] = nn.ModuleList([nn.Linear(a.width, branch.n_outputs)])

    def head(self, branch: str) -> nn.Linear:
        """Return the last layer of a branch."""
        return cast(nn.Linear, cast(nn.ModuleList, self.heads[self.head_of[branch]])[0])

    def deep_features(self, x: Tensor, branch: str) -> list[Tensor]:
        """Return the outputs of all layers behind the extractor: ``(batch, width)`` each, the logits last."""
        hidden, output = list(self.common), self.head(branch)
        x = self.extractors[self.extractor_of[branch]](x).flatten(1)
        outputs = []
        for layer in hidden:
            x = elu(layer(x))
            outputs.append(x)
        return [*outputs, output(x)]

    def forward(self, x: Tensor, branch: str) -> Tensor:
        """Map signals ``(batch, n_chans, n_times)`` of one branch to logits ``(batch, n_outputs)``."""
        return self.deep_features(x, branch)[-1]


class ExtractorAlone(SplitModule):
    """The baseline of one site alone: an extractor and one linear classifier, nothing common.

    With the shallow extractor it is ShallowConvNet (Schirrmeister et al. 2017, Human Brain Mapping 38(11):5391-5420).
    """

    def __init__(self, architecture: Architecture, branches: Mapping[str, Branch], seed: int = 0):
        super().__init__()
        a = architecture
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ((_, branch),) = branches.items()
            self.extractor = a.build_extractor(branch.n_chans)
            self.classifier = nn.Linear(self.extractor.n_features * self.extractor.n_steps, branch.n_outputs)

    def deep_features(self, x: Tensor, branch: str) -> list[Tensor]:
        """Return the logits ``(batch, n_outputs)`` alone: there is no deep layer to match."""
        return [self.classifier(self.extractor(x).flatten(1))]

    def forward(self, x: Tensor, branch: str) -> Tensor:
        """Map trials as the extractor takes them to logits ``(batch, n_outputs)``."""
        return self.deep_features(x, branch)[-1]
