"""Common layers in one file: what `mfscsn export` writes, and `mfscsn.MFSCSNClassifier` continues from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mfscsn.branch import Branch
from mfscsn.choices import MEANS, SUMS
from mfscsn.heads import start_by_label
from mfscsn.inputs import Alignment
from mfscsn.network import Anchored, Architecture
from mfscsn.sums import Summed

FILE = "common.safetensors"
KIND = "mfscsn common layers"
MOST_TIMES, MOST_SFREQ = 100_000, 20_000.0  # samples of a trial, Hz: more would fill the memory
SITE = "site"  # the one branch of a network around them


@dataclass(frozen=True)
class CommonLayers:
    """The common layers of a finished federation, and what a network around them must be.

    Parameters
    ----------
    name : str
        Of the federation.
    architecture : Architecture
    alignment : Alignment
    seed : int
        Of the federation: heads that are held to their labels begin by it.
    layers : mapping of str to tensor
    labels : tuple of str
        Of the federation, where it agreed on a list.
    """

    name: str
    architecture: Architecture
    alignment: Alignment
    seed: int
    layers: dict[str, Tensor] = field(repr=False)
    labels: tuple[str, ...] = ()

    def network_for(self, labels: Sequence[str], inputs: NDArray[np.float32]) -> Anchored | Summed:
        """Return a network for a headset that has no labelled trial; its one branch is `SITE`.

        The norms' running averages are fitted on the signals alone, and the head has its labels' rows. Of sums, what
        lies within labels is fitted on the signals where it is not among them.

        Parameters
        ----------
        labels : sequence of str
            Named as the federation names them.
        inputs : array, shape (n_trials, n_electrodes, n_times), float32
            Trials in the common space, as `alignment` gives them.

        Raises
        ------
        ValueError
            For layers of another kind of network, or a label that sums know nothing of.
        """
        branch = Branch(inputs.shape[1], len(labels), tuple(labels))
        if self.architecture.body in (SUMS, MEANS):
            unknown = [label for label in labels if label not in self.labels]
            if unknown:
                raise ValueError(f"{self.name}: knows the labels {', '.join(self.labels)}, not {', '.join(unknown)}")
            whole = self.architecture.build({SITE: Branch(inputs.shape[1], len(self.labels), self.labels)})
            assert isinstance(whole, Summed)
            whole.load_common(self.layers)
            whole.fit_within(inputs)
            return whole.of_labels([self.labels.index(label) for label in labels], branch, SITE)
        network = self.architecture.build({SITE: branch})
        if not isinstance(network, Anchored):
            raise ValueError(f"{self.name}: its headsets have first layers of their own, so a new one must train some")
        start_by_label(network.head(SITE), tuple(labels), self.seed)
        network.load_common(self.layers)
        network.fit_norms(torch.from_numpy(inputs), SITE)
        return network


def read_exported(path: str | Path) -> CommonLayers:
    """Read what `mfscsn export` wrote.

    Parameters
    ----------
    path : path
        The file, or the folder that it lies in.

    Raises
    ------
    ValueError
        When there is no such file, or it holds something else; one line.
    """
    layers, about = read_file(Path(path))
    try:
        architecture, alignment = _with_band(about["architecture"]), _with_band(about["alignment"])
        seed = int(json.loads(about["training"])["seed"])
        labels = tuple(json.loads(about["contract"]).get("labels") or ())
        made = Architecture(**architecture)
        if not 0 < made.n_times <= MOST_TIMES or not 0 < made.sfreq <= MOST_SFREQ:
            raise ValueError(f"n_times = {made.n_times!r} at sfreq = {made.sfreq!r}")
        return CommonLayers(about["name"], made, Alignment(**alignment), seed, layers, labels)
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"{path}: of another version of mfscsn; export it again with `mfscsn export`") from error


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the layers of an exported file and what stands with them; raise ValueError when it is none."""
    file = path / FILE if path.is_dir() else path
    if (path / "federation.toml").exists() and not file.exists():
        raise ValueError(
            f"{path}: a run's folder; give what federation.common_layers.read_common returns of it, or export it with"
            " `mfscsn export`"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            names: list[str] = opened.keys()
            layers, about = {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: cannot be read as safetensors: {error}") from error
    if about.get("kind") != KIND:
        raise ValueError(f"{file}: no exported common layers; `mfscsn export RUN` writes them")
    for name, values in layers.items():
        if values.is_floating_point() and not values.isfinite().all():
            raise ValueError(f"{file}: layer {name!r} holds a value that is not finite; export it again")
    return layers, about


def _with_band(text: str) -> dict[str, Any]:
    """Read a dataclass from JSON, which knows no tuples."""
    values: dict[str, Any] = json.loads(text)
    lists = {key: tuple(values[key]) for key in ("band", "electrodes") if values.get(key)}
    return values | lists
