"""Federated transfer learning for motor-imagery EEG: separate-common-separate networks. Imports nothing by itself."""

import importlib
from typing import Any

HOMES = {
    "Alignment": "inputs",
    "Architecture": "network",
    "Branch": "network",
    "BranchTrials": "training",
    "CommonLayers": "exported",
    "CommonSpace": "transformer",
    "MFSCSNClassifier": "classifier",
    "SeparateCommonSeparate": "network",
    "Settings": "training",
    "predict": "training",
    "read_exported": "exported",
    "train_round": "training",
}
__all__ = [*HOMES]


def __getattr__(name: str) -> Any:
    """Import a name where it lives, when it is asked for: torch takes seconds."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("mfscsn")
    if name in HOMES:
        return getattr(importlib.import_module(f"mfscsn.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
