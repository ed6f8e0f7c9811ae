"""The wheel beside a user's own `data`, `federation` and `experiments`: ours must be found."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import tiny_toml

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, unpacked as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *words], check=True)
    (wheel,) = folder.glob("mfscsn-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
        names = {name.split("/")[0] for name in archive.namelist() if not name.startswith("mfscsn-")}
    assert names == {"mfscsn", "data", "federation", "experiments"}
    return folder / "site"


@pytest.fixture
def laboratory(tmp_path) -> Path:
    """A user's folder whose names are ours."""
    (tmp_path / "experiments").mkdir()
    for file in ("experiments/__init__.py", "federation.py", "data.py"):
        (tmp_path / file).write_text(f"print('the wrong {file}')")
    return tmp_path


def python(code, cwd, site, *flags):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_what_the_wheel_holds(installed):
    for file in ("federations/demo.toml", "report/report.html", "benchmark/openmi.toml"):
        assert (installed / "experiments" / file).exists()


def test_the_package_is_whole_beside_strangers(installed, laboratory):
    code = (
        "import mfscsn, numpy as np; print(mfscsn.__file__, mfscsn.__version__, dir(mfscsn));"
        "X, y = np.random.default_rng(0).standard_normal((12, 3, 256)), ['a', 'b'] * 6;"
        "print(mfscsn.MFSCSNClassifier(epochs=1).fit(X, y).predict(X).shape)"
    )
    done = python(code, laboratory, installed)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout and "(12,)" in done.stdout and "wrong" not in done.stdout
    for name in ("MFSCSNClassifier", "SeparateCommonSeparate", "read_exported", "__version__"):
        assert name in done.stdout


def test_the_command_works_beside_strangers_and_so_do_its_processes(installed, laboratory, prepared):
    """As the console script starts it: the folder itself is not on the path. Sites train in forked processes."""
    (laboratory / "tiny.toml").write_text(tiny_toml())
    words = ["simulate", "tiny.toml", "--store", str(prepared), "--out", "run"]
    code = f"import sys; sys.path.remove(''); from experiments.cli.main import main; main({words!r})"
    done = python(code, laboratory, installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (laboratory / "run" / "report.html").exists()
    assert "wrong" not in done.stdout + done.stderr + (laboratory / "run" / "flower.log").read_text()


@pytest.mark.parametrize("name", ["data", "federation"])
def test_a_stranger_in_the_place_of_a_package_is_named(installed, laboratory, name):
    for other in {"data.py", "federation.py"} - {f"{name}.py"}:
        (laboratory / other).unlink()
    (laboratory / "experiments" / "__init__.py").unlink()
    (laboratory / "experiments").rmdir()
    done = python("import experiments", laboratory, installed)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ImportError")]
    assert f"{name}.py hides the package {name!r} of mfscsn in {installed}" in line and "rename it" in line
