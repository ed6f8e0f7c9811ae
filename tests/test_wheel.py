"""The wheel, from a folder that has its own `data`: ours must be found, not the user's."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_wheel_works_beside_a_users_own_data_folder(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(REPOSITORY)],
        check=True,
    )
    (wheel,) = tmp_path.glob("mfscsn-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = {name.split("/")[0] for name in archive.namelist() if not name.startswith("mfscsn-")}
    assert names == {"mfscsn", "data", "federation", "experiments"}
    assert (site / "experiments" / "federations" / "demo.toml").exists()
    assert (site / "experiments" / "report" / "report.html").exists()
    user = tmp_path / "user"
    (user / "data").mkdir(parents=True)
    (user / "data" / "__init__.py").write_text("raise RuntimeError('the wrong data')")
    code = "import sys, data.store; print(data.__file__); sys.argv[1:] = ['--help'];"
    code += "from mfscsn import MFSCSNClassifier; from experiments.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=user, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout and "simulate" in done.stdout
