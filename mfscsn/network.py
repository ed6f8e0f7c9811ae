"""The separate-common-separate network: own first layers, common middle layers, own last layers.

::

    branch A   signals (batch, n_chans_A, n_times) -> extractor A \\                     / head A -> n_outputs_A
                                                                   -> common layers ->
    branch B   signals (batch, n_chans_B, n_times) -> extractor B /                     \\ head B -> n_outputs_B

A **branch** is the separate part of one data set (or of one subject). Only the common layers are ever sent to a
server.

References
----------
SCSN: Wei, Ortega, Faisal 2021, "Inter-subject deep transfer learning for motor imagery EEG decoding", IEEE NER.
MF-SCSN: Wei, Faisal 2022, "Federated deep transfer learning for EEG decoding using multiple BCI tasks",
arXiv:2211.10976.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mfscsn.extractors import EXTRACTORS, ShallowExtractor, TangentExtractor

Share = Literal["middle", "none", "all-but-head", "all-but-extractor", "all-but-norm", "all"]
SHARES_EXTRACTOR = ("all-but-head", "all-but-norm", "all")
SHARES_HEAD = ("all-but-extractor", "all-but-norm", "all")
SHARED = "shared"


@dataclass(frozen=True)
class Branch:
    """What the separate layers of one data set must fit."""

    n_chans: int
    n_outputs: int


@dataclass(frozen=True)
class Architecture:
    """What all sites must agree on about the network.

    Parameters
    ----------
    n_times, sfreq : int, float
        Samples of a trial and their rate in Hz.
    extractor : str
        A key of `mfscsn.extractors.EXTRACTORS`.
    band : pair of float, optional
        Hz, that trials were filtered to; the extractor "riemann" leaves out its bands that lie elsewhere.
    width : int
        Units of the common layer, a convolution over all steps.
    share : {"middle", "none", "all-but-head", "all-but-extractor", "all-but-norm", "all"}
        Which layers are common: MF-SCSN's middle ones, none (every site for itself), all but the heads (FedPer),
        all but the extractors (FLEEG), all but the batch norms (FedBN) or all (FedAvg). One channel list is needed
        where extractors are shared, one label list where heads are.
    """

    n_times: int
    sfreq: float
    extractor: str = "shallow"
    band: tuple[float, float] | None = None
    width: int = 50
    share: Share = "middle"

    def build_extractor(self, n_chans: int) -> ShallowExtractor | TangentExtractor:
        """Make an extractor for a headset; raise ValueError when trials are too short for it, or its band is empty."""
        if self.extractor == "riemann":
            return TangentExtractor(n_chans, self.n_times, self.sfreq, band=self.band)
        return EXTRACTORS[self.extractor](n_chans, self.n_times, self.sfreq)


class SplitModule(nn.Module):
    """A module whose state falls into a common part, which may be sent, and a private part, which may not.

    Only parameters are common. Buffers are running averages over a site's own signals, so they stay there.
    """

    common_prefixes: tuple[str, ...] = ()
    private_parts: tuple[str, ...] = ()

    def common_names(self) -> list[str]:
        """Name the parameters that may leave the site."""
        return [
            name
            for name, _ in self.named_parameters()
            if name.startswith(self.common_prefixes or ("\0",)) and not any(p in name for p in self.private_parts)
        ]

    def common_state(self) -> dict[str, Tensor]:
        """Copy the common layers: name -> tensor."""
        state = self.state_dict()
        return {name: state[name].detach().clone() for name in self.common_names()}

    def private_state(self) -> dict[str, Tensor]:
        """Copy all that stays at the site: name -> tensor."""
        common = set(self.common_names())
        return {name: value.detach().clone() for name, value in self.state_dict().items() if name not in common}

    def load_common(self, state: Mapping[str, Tensor]) -> None:
        """Take common layers; raise ValueError that names the array when a name or shape differs."""
        self._load(state, self.common_state(), "common")

    def load_private(self, state: Mapping[str, Tensor]) -> None:
        """Take private layers; raise ValueError that names the array when a name or shape differs."""
        self._load(state, self.private_state(), "private")

    def _load(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor], part: str) -> None:
        for name in sorted(own.keys() | state.keys()):
            if name not in state or name not in own:
                raise ValueError(f"{part} layer {name!r} is {'missing' if name in own else 'unknown'}")
            if state[name].shape != own[name].shape:
                raise ValueError(
                    f"{part} layer {name!r} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
                )
        self.load_state_dict(dict(state), strict=False)


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
        for shared, shapes in (
            (shares_extractor, {b.n_chans for b in branches.values()}),
            (shares_head, {b.n_outputs for b in branches.values()}),
        ):
            if shared and len(shapes) > 1:
                raise ValueError(f"share={a.share!r} needs branches of one shape, found {sorted(shapes)}")
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

    def deep_features(self, x: Tensor, branch: str) -> list[Tensor]:
        """Return the outputs of all layers behind the extractor: ``(batch, width)`` each, the logits last."""
        head = self.heads[self.head_of[branch]]
        *hidden, output = [*self.common, *head]  # type: ignore[misc]
        x = self.extractors[self.extractor_of[branch]](x).flatten(1)
        outputs = []
        for layer in hidden:
            x = nn.functional.elu(layer(x))
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
