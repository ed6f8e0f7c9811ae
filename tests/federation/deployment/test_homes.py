"""The folders of a server and of a site: what their files may say, and what is refused in one line."""

import re
import shutil

import pytest
import tomli_w
import torch
from conftest import mfscsn, refused, tiny_toml

from data.errors import InputError
from experiments.deploy import reopen, status
from experiments.prepare import prepare_sites
from federation.contract import Contract
from federation.deployment import app_bundle
from federation.deployment.keys import check_site_key, hosts, make_site_key
from federation.deployment.launcher import sends
from federation.deployment.server_home import FederationFile, ServerFile, ServerHome
from federation.invitation import read_invitation
from federation.privacy.ledger import Ledger
from federation.register import Node, read_nodes, write_nodes
from federation.run_folder import RunFolder, forget_older_sums
from federation.site import AlreadySummed
from federation.site_home import OtherContract, SiteHome
from federation.site_network import server_network
from federation.site_trials import SiteTrials
from federation.tables import read_toml


@pytest.fixture
def server(tmp_path):
    federation = FederationFile(name="tiny", contract=Contract(window=(0.5, 2.5)))
    return ServerHome.create(tmp_path / "server", ServerFile(hosts=["127.0.0.1"]), federation)


@pytest.fixture
def site(tmp_path, server):
    home = tmp_path / "north"
    home.mkdir()
    make_site_key("north", home / "site.key", home / "north.pub")
    shutil.copy(server.path / "invitation.toml", home)
    north = read_tiny(tmp_path)["site"][0]
    (home / "site.toml").write_text(tomli_w.dumps({"site": [north]}))
    return home


def read_tiny(folder):
    (folder / "tiny.toml").write_text(tiny_toml())
    return read_toml(folder / "tiny.toml")


def test_an_invitation_has_all_that_a_site_must_know(server):
    found = read_invitation(server.path / "invitation.toml")
    assert found.address == ("127.0.0.1", 9092) and found.app == app_bundle.bundle_hash()
    assert found.contract == server.federation.contract
    assert "PRIVATE" not in (server.path / "invitation.toml").read_text()
    assert SiteHome.__doc__ and not server.ready()  # nothing changed: no need to send it again
    path = server.path / "federation.toml"
    path.write_text(path.read_text().replace("width = 50", "width = 20"))
    assert ServerHome(server.path).ready()


def test_site_and_server_agree_on_the_contract_but_for_the_rounds(server, site):
    with pytest.raises(InputError, match="no site is registered"):
        server.federation_of_sites()
    server.add_site(site / "north.pub")
    whole = server.federation_of_sites(rounds=7)
    assert SiteHome(site).federation.digest() == whole.digest() and whole.training.rounds == 7


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('server = "127.0.0.1:9092"', 'server = "127.0.0.1"', "server: expected HOST:PORT"),
        ('server = "127.0.0.1:9092"', 'server = "h:70000"', "server: expected HOST:PORT"),
        ("width = 50", "widht = 50", "contract, widht: unknown key; did you mean 'width'?"),
    ],
)
def test_a_damaged_invitation(site, before, after, words):
    path = site / "invitation.toml"
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(InputError, match=re.escape(words)):
        SiteHome(site)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("[[site]]", "[[sites]]", "sites: unknown key; did you mean 'site'?"),
        ("[[site]]", "thread = 2\n[[site]]", "thread: unknown key; did you mean 'threads'?"),
        ("[[site]]", 'device = "gpu"\n[[site]]', "device: expected 'cpu', 'cuda' or 'auto', found 'gpu'"),
        ("tasks = ", "task = ", "task: unknown key; did you mean 'tasks'?"),
        ('"rest",', "", "at least two are needed to train"),
    ],
)
def test_a_mistake_in_site_toml(site, before, after, words):
    path = site / "site.toml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        SiteHome(site)
    assert "site.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_the_key_must_be_that_of_the_site_and_nobody_elses(site):
    check_site_key(SiteHome(site))
    (site / "site.key").chmod(0o644)
    with pytest.raises(InputError, match="site.key: others can read it"):
        check_site_key(SiteHome(site))
    path = site / "site.toml"
    path.write_text(path.read_text().replace('name = "north"', 'name = "nroth"'))
    with pytest.raises(InputError, match="names the site 'nroth', but the key is that of 'north'"):
        check_site_key(SiteHome(site))
    (site / "north.pub").unlink()
    with pytest.raises(InputError, match="no key; restore it, or make another with `mfscsn site new-key"):
        check_site_key(SiteHome(site))


def test_a_site_without_files(tmp_path, site):
    with pytest.raises(InputError, match="invitation.toml is missing; put the coordinator's there"):
        SiteHome(tmp_path / "nothing")
    (site / "site.toml").write_text('[[site]]\nname = "north"\n')
    with pytest.raises(InputError, match=r"site 'north' has no data set; add \[\[site.dataset\]\]"):
        SiteHome(site)


@pytest.mark.parametrize("name", ["../../etc", "x" * 32, "", "A" * 32])
def test_a_run_that_is_named_like_a_path_is_refused(site, name):
    """The server chooses this name, and it becomes a folder's."""
    with pytest.raises(InputError, match="named no run that can be one"):
        SiteHome(site).open_run(name, 3, SiteHome(site).federation.digest())
    assert not (site / "runs").exists()


def test_a_run_keeps_the_split_it_began_with_but_what_may_leave_can_be_narrowed(site):
    digest = SiteHome(site).federation.digest()
    run, found = SiteHome(site).open_run("a" * 32, 3, digest)
    assert run.federation.training.rounds == 3 and found.metrics == ["loss", "accuracy", "seconds"]
    path = site / "site.toml"
    text = path.read_text()
    path.write_text(text.replace('name = "north"', 'name = "north"\nmetrics = []'))
    again, found = SiteHome(site).open_run("a" * 32, 3, digest)
    assert again.path == run.path and found.metrics == []
    path.write_text(text.replace('runs = [\n    "0",\n]', 'runs = ["1"]'))
    with pytest.raises(InputError, match=r"site.toml: changed since this run began: dataset.0.calibration"):
        SiteHome(site).open_run("a" * 32, 3, digest)


def test_a_new_invitation_is_the_remedy_for_another_contract(server, site):
    """Within the same run: nothing of the old contract was kept."""
    path = site / "invitation.toml"
    right = path.read_text()
    digest = SiteHome(site).federation.digest()
    path.write_text(right.replace("width = 50", "width = 20"))
    with pytest.raises(OtherContract, match="ask for its invitation again"):
        SiteHome(site).open_run("c" * 32, 3, digest)
    path.write_text(right)
    assert SiteHome(site).open_run("c" * 32, 3, digest)[0].federation.contract.width == 50


def test_a_site_takes_part_in_as_many_runs_as_were_announced(server, site):
    """The attack: a server invents run after run, each of them another try on the same trials."""
    path = site / "invitation.toml"
    path.write_text(path.read_text().replace("runs = 20", "runs = 2"))
    digest = SiteHome(site).federation.digest()
    for run in "ab":
        SiteHome(site).open_run(run * 32, 3, digest)
    SiteHome(site).open_run("b" * 32, 3, digest)  # it goes on
    with pytest.raises(InputError, match="taken part in 2 under this contract, as many as the invitation announces"):
        SiteHome(site).open_run("c" * 32, 3, digest)
    assert not (site / "runs" / ("c" * 32)).exists()


def test_scores_of_one_run_leave_under_a_contract(site):
    home = SiteHome(site)
    assert home.lets_scores_out("d1", "a") and home.lets_scores_out("d1", "a")  # resumed
    assert not home.lets_scores_out("d1", "b") and home.lets_scores_out("d2", "b")


def test_what_begins_alike_is_summed_over_the_same_sites_alone(site):
    home = SiteHome(site)
    home.uncovers("start", [3, 1, 2])
    home.uncovers("start", [1, 2, 3])  # another run, of the same sites
    with pytest.raises(AlreadySummed, match="begin a new run with another training.seed"):
        home.uncovers("start", [1, 2])
    home.uncovers("another", [1, 2])
    (site / "sums-uncovered.json").write_text("{")
    with pytest.raises(InputError, match="sums-uncovered.json: damaged; put it back from your backup"):
        home.uncovers("start", [1, 2])
    assert (site / "sums-uncovered.json").read_text() == "{"


def test_one_damaged_run_does_not_hide_the_others(server, site):
    server.add_site(site / "north.pub")
    whole = server.federation_of_sites(rounds=3)
    for name in ("tiny-1", "tiny-2", "tiny-3"):
        RunFolder.create(server.path / "runs" / name, whole, server.path / "prepared", 1)
    (server.path / "runs" / "tiny-2" / "environment.json").write_text("{")
    assert [run.path.name for run in server.runs()] == ["tiny-1", "tiny-3"]
    (why,) = status(server)["damaged_runs"]
    assert "tiny-2: environment.json is missing or damaged" in why
    (server.path / "runs" / "tiny-3" / "environment.json").write_text("{")
    with pytest.raises(InputError, match="to go on with tiny-1 instead, move tiny-2 away"):
        reopen(server, 0.0, print)


def test_a_run_that_was_cut_off_before_it_began_begins_again(site):
    folder = site / "runs" / ("b" * 32)
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text("{")
    assert SiteHome(site).open_run("b" * 32, 3, SiteHome(site).federation.digest())[0].run_id == "b" * 32


def test_the_register_takes_a_key_once_and_a_name_once(server, site, tmp_path):
    assert server.add_site(site / "north.pub") == "north" and list(server.sites()) == ["north"]
    with pytest.raises(InputError, match="this key is registered already, for site 'north'"):
        server.add_site(site / "north.pub", "south")
    make_site_key("north", tmp_path / "b.key", tmp_path / "b.pub")
    with pytest.raises(InputError, match="site 'north' has another key already"):
        server.add_site(tmp_path / "b.pub")
    with pytest.raises(InputError, match="name"):
        server.add_site(tmp_path / "b.pub", "../west")
    assert server.add_site(tmp_path / "b.pub", "west") == "west"
    assert [found.name for found in server.federation_of_sites().site] == ["north", "west"]


def test_the_server_certificate_is_made_again_when_it_is_removed(server):
    before = (server.path / "server.pem").read_bytes()
    (server.path / "server.pem").unlink()
    server.ready()
    assert (server.path / "server.pem").read_bytes() != before
    (server.path / "server.pem").unlink()
    (server.path / "authority.key").unlink()  # kept offline
    with pytest.raises(InputError, match="server.pem: missing, or has run out; put another there"):
        server.ready()


def test_the_server_certificate_follows_the_hosts(server):
    path = server.path / "server.toml"
    path.write_text(path.read_text().replace('"127.0.0.1",', '"127.0.0.1", "fl.example.org",'))
    opened = ServerHome(server.path)
    assert hosts(server.path / "server.pem") == {"127.0.0.1"}
    opened.ready()
    assert hosts(server.path / "server.pem") == {"127.0.0.1", "fl.example.org"}


def test_a_file_in_the_register_whose_name_is_none_is_no_site(server, site):
    shutil.copy(site / "north.pub", server.path / "sites" / "north.example.pub")
    assert server.sites() == {}


def test_nodes_are_read_as_they_were_written(tmp_path):
    nodes = {2**63 + 1: Node("north", True, "2026-11-23 22:00:00")}
    write_nodes(tmp_path / "nodes.json", nodes)
    assert read_nodes(tmp_path / "nodes.json") == nodes and read_nodes(tmp_path / "nothing.json") == {}


@pytest.mark.parametrize(
    "junk", ["", "{", "[1]", '{"7": 3}', '{"x": {"site": "a", "online": true, "since": ""}}', "null"]
)
def test_files_that_the_server_writes_are_one_line_where_they_are_damaged(server, junk):
    (server.path / "nodes.json").write_text(junk)
    with pytest.raises(InputError, match="nodes.json: damaged; remove it, a running server writes it anew"):
        server.connected()
    server.flower.mkdir(exist_ok=True)
    (server.flower / "port.json").write_text(junk)
    with pytest.raises(InputError, match="port.json: damaged; remove it, and start the server again"):
        server.command_port()


def test_the_bundle_changes_with_the_code_and_with_nothing_else(tmp_path, monkeypatch):
    first = app_bundle.bundle_hash()
    assert first == app_bundle.bundle_hash()
    monkeypatch.setattr(app_bundle, "code_digest", lambda: "0" * 64)
    assert app_bundle.bundle_hash() != first
    app_bundle.write_app(tmp_path / "app")
    assert ("0" * 64) in (tmp_path / "app" / "pyproject.toml").read_text()


def test_a_site_says_what_its_noise_lets_out(tmp_path):
    contract = Contract(window=(0.5, 2.5), extractor="shallow-group", alignment="standard", weighting="equal")
    server = ServerHome.create(
        tmp_path / "server", ServerFile(hosts=["127.0.0.1"]), FederationFile(name="tiny", contract=contract)
    )
    home = tmp_path / "north"
    home.mkdir()
    shutil.copy(server.path / "invitation.toml", home)
    north = {**read_tiny(tmp_path)["site"][0], "metrics": [], "privacy": {"epsilon": 4.0, "n_trials": 24}}
    (home / "site.toml").write_text(tomli_w.dumps({"site": [north]}))
    opened = SiteHome(home)
    assert any("at most epsilon 4 (delta 1e-05) of one trial, 0 is spent" in line for line in sends(opened))
    assert any("may take epsilon 1 at most (share 0.25), with noise multiplier" in line for line in sends(opened))
    after = Ledger(home / "privacy.json", opened.site.privacy).charge("a", 1, 9.0, 4, 0.25)
    assert 0 < after < 4 and any(f", {after:.3g} is spent" in line for line in sends(opened))
    (home / "privacy.json").unlink()
    before = home / "runs" / ("b" * 32)
    (before / "sites" / "north").mkdir(parents=True)
    (before / "sites" / "north" / "private.safetensors").touch()
    (before / "federation.toml").write_text(tomli_w.dumps({"site": [{"name": "north"}]}))
    assert any("BUT 1 run(s) before had no noise: whatever they told of one trial is" in line for line in sends(opened))
    (home / "site.toml").write_text(tomli_w.dumps({"site": [{**north, "metrics": ["loss"]}]}))
    with pytest.raises(InputError, match=r"site 'north': privacy needs metrics = \[\]"):
        SiteHome(home)


@pytest.mark.parametrize("masked", [False, True])
def test_a_site_in_the_common_space_says_that_a_decoder_leaves(tmp_path, masked):
    contract = Contract(window=(0.5, 2.5), secure_aggregation=masked)
    server = ServerHome.create(
        tmp_path / "server", ServerFile(hosts=["127.0.0.1"]), FederationFile(name="tiny", contract=contract)
    )
    home = tmp_path / "north"
    home.mkdir()
    shutil.copy(server.path / "invitation.toml", home)
    (home / "site.toml").write_text(tomli_w.dumps({"site": [read_tiny(tmp_path)["site"][0]]}))
    lines = sends(SiteHome(home))
    (decoder,) = [line for line in lines if "a decoder whole but for its heads" in line]
    assert ("of the sum, not whose" in decoder) == masked and ("secure_aggregation hides whose" in decoder) != masked
    assert "never: recordings, trials, labels, channel lists, subjects, electrodes, means of subjects" in lines[-1]


@pytest.fixture
def site_of_sums(tmp_path):
    """A site of a federation of one message, prepared, with a run whose sums have arrived."""
    contract = Contract(
        window=(0.5, 2.5), strategy="one-message", labels=["right_hand", "rest"], electrodes=["C3", "C4"]
    )
    ServerHome.create(
        tmp_path / "server", ServerFile(hosts=["127.0.0.1"]), FederationFile(name="sums", contract=contract)
    )
    code, _, err = mfscsn(
        "site", "init", "north", "--invitation", "server/invitation.toml", "--name", "north", cwd=tmp_path
    )
    assert code == 0, err
    options = "{ n_subjects = 3, n_runs = 1, n_trials = 4, montage = ['C3', 'Cz', 'C4'], trial_length = 3.0 }"
    (tmp_path / "north" / "site.toml").write_text(
        '# ours\n[[site]]\nname = "north"\n[[site.dataset]]\nsource = "simulated:clinic"\n'
        f'options = {options}\ntasks = ["right_hand", "rest"]\n# subjects = [1]  # all, when left out\n'
    )
    home = SiteHome(tmp_path / "north")
    prepare_sites(home.federation, home.store)
    run, _ = home.open_run("a" * 32, 1, home.federation.digest())
    run.keep_common(1, server_network(home.federation).common_state())
    return home


def test_a_person_is_forgotten_in_the_file_in_the_store_and_in_the_sums(site_of_sums, tmp_path):
    home = site_of_sums
    prepared = {path.name for path in home.store.glob("*/sub-*.npy")}
    code, out, err = mfscsn("site", "forget", "north", "--person", "2", cwd=tmp_path)
    assert code == 0 and "ask the coordinator for a fresh sum" in out, err
    text = (home.path / "site.toml").read_text()
    assert 'without = ["2"]' in text and "# ours" in text and "# all, when left out" in text
    assert prepared - {path.name for path in home.store.glob("*/sub-*.npy")} == {"sub-2.npy"}
    after = SiteHome(home.path)
    prepare_sites(after.federation, after.store)
    opened = SiteTrials(after.site, after.federation.contract, after.store)
    assert opened.subjects("clinic") == ["1", "3"]
    assert not list(home.path.glob("runs/*/common/*")) and not list(home.path.glob("runs/*/sites/*/*.safetensors"))
    with pytest.raises(InputError, match="somebody in them is to be forgotten"):
        after.runs()[0].load_common(1)


@pytest.mark.parametrize(
    ("person", "words"), [("4", "no subject '4'; did you mean '3'?"), ("1", "last subject of 'clinic'")]
)
def test_who_cannot_be_forgotten_changes_nothing(site_of_sums, tmp_path, person, words):
    path = site_of_sums.path / "site.toml"
    if person == "1":
        path.write_text(path.read_text().replace("# subjects", "subjects"))
    before = path.read_text()
    assert words in refused("site", "forget", "north", "--person", person, cwd=tmp_path) or person == "4"
    assert path.read_text() == before and list(site_of_sums.path.glob("runs/*/common/*"))


def test_the_server_forgets_a_site_that_has_left(server, site, tmp_path):
    path = server.path / "federation.toml"
    text = path.read_text().replace('strategy = "fedavg"', 'strategy = "one-message"\nlabels = ["right_hand", "rest"]')
    for key in ("electrodes", "body", "weighting", "secure_aggregation"):
        text = re.sub(f"(?m)^{key} = .*\n", "", text)
    path.write_text(text.replace("rounds = 200", "rounds = 1"))
    home = ServerHome(server.path)
    home.add_site(site / "north.pub")
    run = RunFolder.create(home.path / "runs" / "one", home.federation_of_sites(), tmp_path, 1)
    layers = server_network(run.federation).common_state()
    run.finish_round(1, layers, {}, [{"round": 1, "site": "north", "status": "ok"}], [{"round": 1, "site": "north"}])
    assert "would be in the next sum again" in refused("server", "forget-site", "server", "north", cwd=tmp_path)
    home.remove_site("north")
    assert "no run knows a site 'nort'" in refused("server", "forget-site", "server", "nort", cwd=tmp_path)
    code, out, _ = mfscsn("server", "forget-site", "server", "north", cwd=tmp_path)
    assert code == 0 and "removed the sums of: one" in out and not list(run.path.glob("common/*"))
    assert '"forget"' in (home.path / "audit.jsonl").read_text()


def test_another_sum_needs_another_invitation(site_of_sums):
    """Two sums whose sites differ by one tell that site's: a server may not begin them at will."""
    with pytest.raises(InputError, match="taken part in 1 under this contract, as many as the invitation announces"):
        site_of_sums.open_run("b" * 32, 1, site_of_sums.federation.digest())


def announce(home, runs):
    path = home.path / "invitation.toml"
    path.write_text(path.read_text().replace("runs = 1", f"runs = {runs}"))
    return SiteHome(home.path)


def test_the_sums_before_go_when_a_fresh_one_is_whole(site_of_sums):
    site_of_sums = announce(site_of_sums, 2)
    run, _ = site_of_sums.open_run("b" * 32, 1, site_of_sums.federation.digest())
    run.keep_common(1, server_network(run.federation).common_state())
    forget_older_sums(run)
    older, newer = site_of_sums.runs() if site_of_sums.runs()[0].run_id[0] == "a" else site_of_sums.runs()[::-1]
    assert newer.kept_rounds() == {1} and not older.kept_rounds()
    with pytest.raises(InputError, match="have taken their place"):  # nor do they come back
        older.keep_common(1, server_network(run.federation).common_state())
    forget_older_sums(older)


def test_what_one_message_sends_is_said_in_plain_words(site_of_sums):
    said = " ".join(sends(site_of_sums))
    assert "once: the 3 arrays" in said and "masked" in said and "how many each label has" in said
    invitation = site_of_sums.path / "invitation.toml"
    invitation.write_text(invitation.read_text().replace("secure_aggregation = true", "secure_aggregation = false"))
    assert "WARNING: without secure aggregation the server reads this site's own sums" in " ".join(
        sends(SiteHome(site_of_sums.path))
    )


def test_a_site_without_a_graphics_card_is_told_and_one_with_it_trains_there(site, monkeypatch):
    path = site / "site.toml"
    path.write_text('device = "cuda"\n' + path.read_text())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match='device.*torch sees no graphics card here; take "cpu", or "auto"'):
        SiteHome(site)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    run, _ = SiteHome(site).open_run("a" * 32, 3, SiteHome(site).federation.digest())
    assert run.device == run.environment["device"] == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match='environment.json: device = "cuda", but torch sees no graphics card'):
        _ = RunFolder(run.path).device  # another machine reads it, and does not go on with it
