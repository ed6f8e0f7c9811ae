"""A real deployment on loopback: a server and its sites, each a process with a folder of its own."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import tomli_w
from conftest import MFSCSN, mfscsn

from federation.run_folder import RunFolder
from federation.tables import read_toml

MALICIOUS = Path(__file__).with_name("malicious")
TINY = {
    "simulated:clinic": ["right_hand", "rest"],
    "simulated:laboratory": ["left_hand", "right_hand", "rest"],
    "simulated:university": ["left_hand", "right_hand", "feet"],
}


def tiny_site(source):
    """A site's table with few simulated trials."""
    montage = ["C3", "Cz", "C4", "FC1" if source == "simulated:clinic" else "CP1"]
    dataset = {
        "source": source,
        "options": {"n_subjects": 2, "n_runs": 2, "n_trials": 6, "montage": montage, "trial_length": 4.0},
        "tasks": TINY[source],
        "targets": ["2"],
        "calibration": {"runs": ["0"]},
    }
    return {"scores": ["balanced_accuracy"], "dataset": [dataset]}


def wait_for(what, seconds=60.0, step=0.05):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(step)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def family(process):
    """A process and all below it, as power that fails takes them."""
    found = psutil.Process(process.pid)
    return [found, *found.children(recursive=True)]


def ended(process):
    """Tell whether a process has ended, also where nobody has asked for its exit code yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(process):
    for member in family(process):
        member.kill()
    process.wait()


class Deployment:
    """A server's folder and its sites' folders below one folder, and the processes that were started."""

    def __init__(self, folder: Path):
        self.folder, self.server, self.running = folder, folder / "server", {}

    def begin(self, federation):
        path = self.folder / "fed.toml"
        path.write_text(federation)
        self.port = free_port()
        words = ["server", "init", self.server, "--host", "127.0.0.1", "--port", self.port, "--from", path]
        code, out, err = mfscsn(*words, cwd=self.folder)
        assert code == 0, err
        return out

    def add_site(self, name, table, register=True, check=True, **file):
        """Make a site as its engineer does, and register it as the coordinator does."""
        home = self.folder / name
        code, _, err = mfscsn(
            "site", "init", home, "--invitation", self.server / "invitation.toml", "--name", name, cwd=self.folder
        )
        assert code == 0, err
        (home / "site.toml").write_text(tomli_w.dumps({**file, "site": [{"name": name, **table}]}))
        if register:
            code, _, err = mfscsn("server", "add-site", self.server, home / f"{name}.pub", cwd=self.folder)
            assert code == 0, err
        if check:
            code, out, err = mfscsn("site", "check", home, "--offline", cwd=self.folder)
            assert code == 0, out + err
        return home

    def start(self, what, name="server", cheats=False):
        """Start a server or a site as its command does; one that cheats does what is in the folder `malicious`."""
        log = (self.folder / f"{name}.log").open("a")
        path = os.pathsep.join([str(MALICIOUS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        cheating = {"PYTHONPATH": path, "CHEATS": str(self.folder)} if cheats else {}
        self.running[name] = subprocess.Popen(
            [MFSCSN, what, "run", str(self.folder / name)], cwd=self.folder, stdout=log, stderr=log,
            env={**os.environ, **cheating},
        )  # fmt: skip
        return self.running[name]

    def serve(self, cheats=False):
        self.start("server", cheats=cheats)
        before = self.said("server").count("listens to sites")
        wait_for(lambda: self.said("server").count("listens to sites") > before)

    def join(self, *names, seconds=60.0):
        for name in names:
            self.start("site", name)
        wait_for(lambda: all(self.connected().get(name) for name in names), seconds)

    def connected(self):
        path = self.server / "nodes.json"
        return {n["site"]: n["online"] for n in json.loads(path.read_text()).values()} if path.exists() else {}

    def train(self, *words):
        return mfscsn("server", "train", self.server, *words, cwd=self.folder)

    def train_beside(self, *words):
        command = [MFSCSN, "server", "train", str(self.server), *map(str, words)]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            # a suite that runs in a shell's background was told to ignore it, and hands that down
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def run(self) -> RunFolder:
        return RunFolder(sorted((self.server / "runs").glob("*/federation.toml"))[-1].parent)

    def last_round(self):
        names = [path.stem for path in self.server.glob("runs/*/common/round-*.safetensors")]
        return max((int(name.partition("-")[2]) for name in names), default=0)

    def site_run(self, name) -> Path:
        (run,) = (self.folder / name / "runs").iterdir()
        return run

    def said(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def end(self):
        everything = [
            member for process in self.running.values() if process.poll() is None for member in family(process)
        ]
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(everything, timeout=60)  # a fork server that still imports sees its end late
        left = [member for member in left if not ended(member)]
        words = [member.cmdline() for member in left]
        for member in left:
            member.kill()
        assert not left, words


def whole_federation(deployment, names):
    """What a simulation of the same federation is given."""
    invitation = read_toml(deployment.server / "invitation.toml")
    sites = [read_toml(deployment.folder / name / "site.toml") for name in names]
    document = {
        "name": "whole",
        "contract": invitation["contract"],
        "training": invitation["training"],
        "site": [site["site"][0] for site in sites],
    }
    if "data_root" in sites[0]:
        document["data_root"] = sites[0]["data_root"]
    path = deployment.folder / "whole.toml"
    path.write_text(tomli_w.dumps(document))
    return path
