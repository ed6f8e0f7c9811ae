"""Federated transfer learning for motor-imagery EEG: separate-common-separate networks. Imports nothing by itself.

This is the door of all packages: what stands above this one, `DOORS`, is imported when somebody asks for it.
"""

import importlib
from typing import Any

HOMES = {
    "Alignment": "mfscsn.inputs",
    "Architecture": "mfscsn.network",
    "Branch": "mfscsn.branch",
    "BranchTrials": "mfscsn.branch",
    "CommonLayers": "mfscsn.exported",
    "CommonSpace": "mfscsn.transformer",
    "MFSCSNClassifier": "mfscsn.classifier",
    "SeparateCommonSeparate": "mfscsn.network",
    "Settings": "mfscsn.settings",
    "predict": "mfscsn.training",
    "read_exported": "mfscsn.exported",
    "train_round": "mfscsn.training",
}
DOORS = {
    "Decoder": "experiments.decoder",
    "RunFolder": "federation.run_folder",
    "load_run": "experiments.python",
    "save_trials": "data.arrays",
    "simulate": "experiments.python",
}
__all__ = [*HOMES, *DOORS]


def __getattr__(name: str) -> Any:
    """Import a name where it lives, when it is asked for: torch takes seconds."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("mfscsn")
    if name in __all__:
        try:
            return getattr(importlib.import_module((HOMES | DOORS)[name]), name)
        except ImportError as error:
            from mfscsn.packages import missing_extra

            if (line := missing_extra(error)) is None:
                raise
            raise ImportError(f"mfscsn.{name}: {line}", name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
