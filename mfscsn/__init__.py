"""Federated transfer learning for motor-imagery EEG: separate-common-separate networks. Imports nothing by itself."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Find `MFSCSNClassifier`, the scikit-learn estimator, where it lives: above this package."""
    if name == "MFSCSNClassifier":
        return importlib.import_module("mfscsn.classifier").MFSCSNClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
