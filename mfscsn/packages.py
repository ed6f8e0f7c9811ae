"""What must be there to run: our four packages, which a user's own folder may hide, and the extras of an install."""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("mfscsn", "data", "federation", "experiments")
EXTRA_OF = {  # a package that may be missing -> the extra that brings it
    "braindecode": "benchmark",
    "pyriemann": "benchmark",
    "torchaudio": "benchmark",
    "fastapi": "deployment",
    "httpx": "deployment",
    "prometheus_client": "deployment",
    "uvicorn": "deployment",
    "cryptography": "federation",
    "flwr": "federation",
    "jinja2": "federation",
    "markupsafe": "federation",
    "matplotlib": "federation",
    "moabb": "federation",
    "pandas": "federation",
    "ray": "federation",
    "tomlkit": "federation",
    "mne_lsl": "online",
    "opacus": "privacy",
    "opendp": "privacy",
    "mlflow": "tracking",
    "tensorboard": "tracking",
}


def check_packages() -> None:
    """Raise ImportError, one line that says what hides what, when one of our packages is a stranger."""
    ours = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        place = Path(spec.origin) if spec is not None and spec.origin else None
        if place is None or place.parent.resolve() != ours / name:
            raise ImportError(
                f"{place or 'nothing'} hides the package {name!r} of mfscsn in {ours / name}: rename"
                " it, or start Python in another folder, or with -P"
            )


def missing_extra(error: ImportError, wanted: str | None = None) -> str | None:
    """Return the line that says which extra is not installed, and what to type; None where it is no extra's fault.

    Parameters
    ----------
    error : ImportError
        That was raised for a package which is not there.
    wanted : str, optional
        The extra to name, where more than one brings the package.
    """
    package = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in EXTRA_OF:
        return None
    return f"this needs {package}, which is not installed: pip install 'mfscsn[{wanted or EXTRA_OF[package]}]'"
