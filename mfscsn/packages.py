"""Four packages of this project stand at the top level, where a user's own folder or file may hide one of them."""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("mfscsn", "data", "federation", "experiments")


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
