"""A site's own folder in a deployment: ``invitation.toml``, ``site.toml``, its key, prepared trials, and its runs.

All that a site does is decided by the files here. Of what the server sends, only numbers and layers are used.
"""

import json
import re
import shutil
from pathlib import Path

from pydantic import Field

from data.errors import InputError
from data.files import replaced
from federation.contract import Federation, Site, with_root
from federation.invitation import Invitation, read_invitation
from federation.run_folder import RunFolder, runs_in
from federation.tables import Table, first_difference, parse_table, read_toml


class OtherContract(InputError):
    """The server holds another contract than this site."""


LEAVES = {"metrics", "scores"}  # what the engineer may change between two rounds
SCORED = "scores-left.json"


class SiteFile(Table):
    """What a site's engineer writes, ``site.toml``: one [[site]] as in a FED.toml, and how this machine works.

    Parameters
    ----------
    data_root : str
        Where ``bids:`` folders are looked for; relative to the file.
    threads : int
        Of torch.
    site : list
        One.
    """

    data_root: str = "."
    threads: int = Field(1, ge=1)
    site: list[Site] = Field(min_length=1, max_length=1)


class SiteHome:
    """A deployed site's folder, opened.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputError
        When a file is missing, or says what it may not; one line.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()
        if not (self.path / "invitation.toml").is_file():
            raise InputError(
                f"{path}: invitation.toml is missing; put the coordinator's there, or begin with `mfscsn site init`"
            )
        self.invitation: Invitation = read_invitation(self.path / "invitation.toml")
        where = self.path / "site.toml"
        document = read_toml(where)
        file = parse_table(SiteFile, document, str(where))
        if not file.site[0].dataset:
            raise InputError(f"{where}: site {file.site[0].name!r} has no data set; add [[site.dataset]]")
        self.threads = file.threads
        agreed = self.invitation.model_dump(mode="json", include={"name", "contract", "training"}, exclude_none=True)
        federation = parse_table(Federation, {**agreed, "site": document["site"]}, str(where))
        self.federation = with_root(federation, (self.path / file.data_root).resolve())

    @property
    def site(self) -> Site:
        """The site, as its file says now."""
        return self.federation.site[0]

    @property
    def store(self) -> Path:
        """Where prepared trials lie."""
        return self.path / "prepared"

    @property
    def key(self) -> Path:
        """The site's private key."""
        return self.path / "site.key"

    @property
    def public_key(self) -> Path:
        """What the coordinator registers."""
        return self.path / f"{self.site.name}.pub"

    def runs(self) -> list[RunFolder]:
        """Open all runs that this site took part in, the oldest first."""
        return runs_in(self.path / "runs")

    def lets_scores_out(self, contract: str, run_id: str) -> bool:
        """Return whether a run's scores may leave, and write that down: one run's do, of each contract.

        A server that begins runs at will would else try layers of its choice on the test trials.
        """
        path = self.path / SCORED
        left: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if left.setdefault(contract, run_id) != run_id:
            return False
        with replaced(path) as out:
            out.write(json.dumps(left, indent=1).encode())
        return True

    def open_run(self, run_id: str, rounds: int, contract: str) -> tuple[RunFolder, Site]:
        """Open the folder of a run that the server named, or begin it; return it with the site as its file says now.

        Raises
        ------
        OtherContract
            When the invitation's contract, or the run's, has another digest than the server's.
        InputError
            When the name is none, the runs that the invitation announces are over, or ``site.toml`` has changed since
            the run began.
        """
        if not re.fullmatch("[0-9a-f]{32}", run_id) or rounds < 1:
            raise InputError("the server named no run that can be one")  # it becomes a folder's name
        if contract != self.federation.digest():  # before anything of it is kept
            raise OtherContract("the server holds another contract; ask for its invitation again")
        folder = self.path / "runs" / run_id
        if not (folder / "federation.toml").exists():
            shutil.rmtree(folder, ignore_errors=True)  # cut off before it began: nothing of worth is in it
            n_runs = sum(run.federation.digest() == contract for run in self.runs())
            if n_runs >= self.invitation.runs:
                raise InputError(
                    f"{self.path}: the server begins another run, but this site has taken part in {n_runs} under this"
                    " contract, as many as the invitation announces; ask the coordinator for one with more `runs`"
                )
            training = self.federation.training.model_copy(update={"rounds": rounds})
            begun = self.federation.model_copy(update={"training": training})
            return RunFolder.create(folder, begun, self.store, self.threads, run_id), self.site
        run = RunFolder(folder)
        if contract != run.federation.digest():
            raise OtherContract("this run began with another contract")
        frozen = run.federation.site[0]
        change = first_difference(frozen.model_dump(exclude=LEAVES), self.site.model_dump(exclude=LEAVES))
        if change:
            raise InputError(
                f"{self.path / 'site.toml'}: changed since this run began: {change}; undo that, or wait for a new run"
            )
        return run, self.site
