"""The house: imports point down, no two things share a name, and what trains a round imports nothing that reads EEG."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mfscsn
from mfscsn.packages import EXTRA_OF

REPOSITORY = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "mfscsn": set(),
    "data": set(),
    "federation": {"mfscsn", "data"},
    "experiments": {"mfscsn", "data", "federation"},
}
# `check_packages` looks for all four of them, and nothing else
FILES = {path: ast.parse(path.read_text()) for name in MAY_IMPORT for path in sorted((REPOSITORY / name).rglob("*.py"))}
DOOR = REPOSITORY / "mfscsn" / "__init__.py"  # of all packages: it imports nothing until somebody asks
FLOWERS = {"app", "train", "evaluate", "main"}  # how Flower calls what it asks an app for


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, at its head, in a function, or through a name in a string."""
    for node in ast.walk(FILES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports by a relative name"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in inside)
        elif isinstance(node, ast.Constant) and "." in str(node.value) and node.value in MODULES:
            yield str(node.value)  # what importlib, -m or a forked process is given


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package):
    for path in FILES:
        if path.relative_to(REPOSITORY).parts[0] == package:
            if path == DOOR:
                continue
            ours = {name.split(".")[0] for name in imported(path)} & MAY_IMPORT.keys()
            assert ours <= MAY_IMPORT[package] | {package}, f"{path}: {ours}"


def test_an_import_that_points_up_is_seen_however_it_is_written(monkeypatch):
    path = REPOSITORY / "mfscsn" / "losses.py"
    for text in (
        "def f():\n    from experiments.simulate import simulate",
        "import importlib\nimportlib.import_module('experiments.simulate')",
        "import experiments.simulate",
        "from experiments import simulate",
    ):
        monkeypatch.setitem(FILES, path, ast.parse(text))
        assert "experiments.simulate" in set(imported(path)), text


def test_no_circle():
    """Files that name one another for a process of their own, in a string, are no circle."""
    graph = {}
    for name, path in MODULES.items():
        tree = ast.Module([node for node in ast.walk(FILES[path]) if isinstance(node, ast.Import | ast.ImportFrom)], [])
        of_file = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                of_file |= {found if found in MODULES else node.module for found in inside}
            else:
                of_file |= {alias.name for alias in node.names}
        graph[name] = (of_file & MODULES.keys()) - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files import one another: {' -> '.join(error.args[1])}")


def test_no_two_things_share_a_name():
    """Public functions and classes, but for what people type: commands, and what Python's `mfscsn` has."""
    places = defaultdict(set)
    for path, tree in FILES.items():
        if path.parent.name != "cli" and path.name != "python.py":  # doors are called as what they lead to
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    hook = node.name in FLOWERS and path.name in ("client_app.py", "server_app.py")
                    places[node.name] |= set() if hook else {module_of(path)}
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_every_room_is_named_in_contributing():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    rooms = {str(path.parent.relative_to(REPOSITORY)) for path in FILES}
    assert {room for room in rooms if f"`{room}`" not in text} == set()


def test_no_function_takes_eight_arguments():
    """But for an estimator and an extractor, whose parameters are how their libraries have it."""
    for path, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                names = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
                assert len(names) < 8, f"{path}: {node.name} takes {len(names)}"


def test_the_door_leads_to_all_that_it_names_and_imports_none_of_it():
    code = "import sys, mfscsn; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'data', 'federation')])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert all(getattr(mfscsn, name).__name__ == name for name in mfscsn.__all__)


def test_training_imports_neither_mne_nor_moabb():
    modules = "federation.client_app, federation.server_app, experiments.references"
    code = f"import sys, {modules}; print([m for m in ('mne', 'moabb', 'mne_bids', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_trains_nothing_imports_neither_torch_nor_mne(tmp_path):
    """A key is written, and a site waits, without the seconds and the 700 MB of an import of torch."""
    code = """
import sys
from experiments.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code, ended.code
import federation.deployment.launcher, federation.site_trials
print([m for m in ('torch', 'mne', 'moabb', 'sklearn', 'scipy.signal', 'ray', 'pandas') if m in sys.modules])
"""
    hub, site = str(tmp_path / "hub"), str(tmp_path / "site")
    for words in (
        ["server", "init", hub, "--host", "127.0.0.1"],
        ["site", "init", site, "--invitation", f"{hub}/invitation.toml", "--name", "north"],
        ["server", "add-site", hub, f"{site}/north.pub"],
    ):
        done = subprocess.run([sys.executable, "-P", "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith("[]"), (words, done.stdout)


def test_the_base_install_is_enough_for_a_decoder():
    """`pip install mfscsn` without an extra: what the extras bring is hidden, and a line says which one is missing."""
    hidden = [name for name in EXTRA_OF if name != "matplotlib"]  # MNE brings it
    code = f"""
import sys
for name in {hidden!r}:
    sys.modules[name] = None
import mfscsn
for name in ("CommonSpace", "MFSCSNClassifier", "Decoder", "read_exported"):
    getattr(mfscsn, name)
from experiments.cli.main import main
for words in (["predict", "--help"], ["site", "init", "X", "--invitation", "Y", "--name", "z"], ["demo"]):
    try:
        main(words)
    except SystemExit as ended:
        print(ended.code)
try:
    mfscsn.simulate
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mfscsn[deployment]'" in done.stderr and "pip install 'mfscsn[federation]'" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout.splitlines()[-4:-1] == ["0", "2", "2"], done.stdout
    assert done.stdout.splitlines()[-1].startswith("mfscsn.simulate: this needs")


def test_every_package_that_an_extra_brings_is_known_by_name():
    """What is imported and in no base install has an extra to be named."""
    third = set()
    for tree in FILES.values():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            third |= {name.split(".")[0] for name in names}
    base = {
        "click", "mne", "mne_bids", "numpy", "packaging", "psutil", "pydantic", "pyxdf", "rich", "safetensors", "scipy",
        "sklearn", "threadpoolctl", "tomli_w", "torch", "typer",
    }  # fmt: skip
    with_another = {"google"}  # Flower brings protobuf
    assert third - sys.stdlib_module_names - MAY_IMPORT.keys() - base - with_another <= EXTRA_OF.keys()
