"""Imports point down, and what trains a round imports nothing that reads recordings."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "mfscsn": set(),
    "data": set(),
    "federation": {"mfscsn", "data"},
    "experiments": {"mfscsn", "data", "federation"},
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package):
    for path in (REPOSITORY / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            ours = {name.split(".")[0] for name in names} & MAY_IMPORT.keys()
            assert ours <= MAY_IMPORT[package] | {package}, f"{path}: {ours}"


def test_training_imports_neither_mne_nor_moabb():
    modules = "federation.client_app, federation.server_app, experiments.references"
    code = f"import sys, {modules}; print([m for m in ('mne', 'moabb', 'mne_bids', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
