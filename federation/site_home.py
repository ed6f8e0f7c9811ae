"""A site's own folder in a deployment: ``invitation.toml``, ``site.toml``, its key, prepared trials, and its runs.

All that a site does is decided by the files here. Of what the server sends, only numbers and layers are used.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tomlkit
from pydantic import AfterValidator, Field

from data.errors import InputError, nearest
from data.files import replaced
from data.store import forget
from federation.contract import Federation, Site, with_root
from federation.invitation import Invitation, read_invitation
from federation.run_folder import RunFolder, runs_in
from federation.site import AlreadySummed
from federation.site_trials import SiteTrials
from federation.tables import Table, first_difference, parse_table, read_toml
from mfscsn.device import Device, found_device


class OtherContract(InputError):
    """The server holds another contract than this site."""


LEAVES = {"metrics", "scores"}  # what the engineer may change between two rounds
SCORED, SUMS = "scores-left.json", "sums-uncovered.json"


class SiteFile(Table):
    """What a site's engineer writes, ``site.toml``: one [[site]] as in a FED.toml, and how this machine works.

    Parameters
    ----------
    data_root : str
        Where ``bids:`` folders are looked for; relative to the file.
    threads : int
        Of torch.
    device : {"cpu", "cuda", "auto"}
        Where rounds are trained; "auto" is a graphics card where torch sees one.
    site : list
        One.
    """

    data_root: str = "."
    threads: int = Field(1, ge=1)
    device: Annotated[Device, AfterValidator(found_device)] = "cpu"
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
        self.device = file.device
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

    def forget_person(self, subject: str, dataset: str | None = None) -> tuple[str, list[str]]:
        """Use a subject no longer: write so into ``site.toml``, remove its prepared trials and the sums it is in.

        Returns
        -------
        str, list of str
            Its data set, and the runs whose sums are gone.

        Raises
        ------
        InputError
            When there is no such subject, more than one, or it is a target or the last one; nothing is changed.
        """
        opened = SiteTrials(self.site, self.federation.contract, self.store)
        having = [d for d in self.site.dataset if subject in opened.subjects(d.name) and dataset in (None, d.name)]
        where = f"{self.path / 'site.toml'}"
        if len(having) != 1:
            known = [name for d in self.site.dataset for name in opened.subjects(d.name)]
            several = f"{', '.join(d.name for d in having)} have one each; say which with --data" if having else ""
            raise InputError(f"{where}: {several or f'no subject {subject!r}{nearest(subject, known)}'}")
        (found,) = having
        if opened.subjects(found.name) == [subject]:
            raise InputError(f"{where}: {subject!r} is the last subject of {found.name!r}; take the data set out")
        document = tomlkit.parse((self.path / "site.toml").read_text(encoding="utf-8-sig"))
        table: Any = document["site"][0]["dataset"][self.site.dataset.index(found)]  # type: ignore[index]
        table["without"] = [*found.without, subject]
        for key in ("subjects", "targets"):
            if key in table:
                table[key] = [name for name in table[key] if str(name) != subject]
        parse_table(SiteFile, document.unwrap(), where)
        with replaced(self.path / "site.toml") as out:
            out.write(tomlkit.dumps(document).encode())
        forget(found.source, self.store, subject)
        why = "its sums were removed, because somebody in them is to be forgotten; ask the coordinator for a fresh sum"
        return found.name, [run.path.name for run in self.runs() if run.forget_sums(why)]

    def lets_scores_out(self, contract: str, run_id: str) -> bool:
        """Return whether a run's scores may leave, and write that down: one run's do, of each contract.

        A server that begins runs at will would else try layers of its choice on the test trials.
        """
        return self._is_first(SCORED, contract, run_id)

    def uncovers(self, start: str, nodes: Sequence[int]) -> None:
        """Write down that the sum of what these nodes made of the same layers is about to be uncovered, in any run.

        Two runs begin from the same layers, since the seed says which: a sum of each, one of them without one site,
        would tell by their difference what that site sent.

        Raises
        ------
        AlreadySummed
            When it was over others before.
        """
        if not self._is_first(SUMS, start, sorted(nodes)):
            raise AlreadySummed(
                "what begins from these layers was summed over other sites before, in this run or another; come with"
                " the same sites, or begin a new run with another training.seed"
            )

    def _is_first(self, name: str, key: str, value: str | list[int]) -> bool:
        """Return whether a file of what was let out has this value for a key, or none yet; then it has it."""
        path = self.path / name
        try:
            known: dict[str, str | list[int]] = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise InputError(f"{path}: damaged; put it back from your backup: it says what has left already") from error
        if known.setdefault(key, value) != value:
            return False
        with replaced(path) as out:
            out.write(json.dumps(known, indent=1).encode())
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
            return RunFolder.create(folder, begun, self.store, self.threads, run_id, self.device), self.site
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
