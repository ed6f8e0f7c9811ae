"""The command as a user types it: bad input is one line, exit code 2, and nothing is lost."""

import shlex

import pytest
import typer
from conftest import mfscsn, refused, tiny_toml

from experiments.cli.main import app
from experiments.cli.show import ProgressLines
from experiments.progress import Progress
from federation.run_folder import RunFolder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[training]", "[training]\nrouds = 3", "training, rouds: unknown key; did you mean 'rounds'?"),
        ("batch_size = 8", 'batch_size = "8"', "training, batch_size: expected a valid integer, found '8'"),
        ('"simulated:clinic"\noptions', '"bids:nowhere"\n#', "site 'north': bids:"),
        (
            "n_subjects = 3",
            'n_subjects = "3"',
            "simulated:clinic: option 'n_subjects': input should be a valid integer",
        ),
        ("targets = [3]", "targets = [33]", "site 'north': simulated:clinic: no such subject '33'"),
        ("targets = [3]", "targets = [3]\nwithout = [22]", "site 'north': simulated:clinic: no such subject '22'"),
        (
            'targets = [3]\ncalibration = { runs = ["0"] }',
            "without = [1, 2, 3]",
            "without = ['1', '2', '3'] leaves no subject",
        ),
        ('tasks = ["right_hand", "rest"]', 'tasks = ["wink", "blink"]', "has no trial of the tasks ['blink', 'wink']"),
        ('tasks = ["right_hand", "rest"]', 'tasks = ["rest"]', "at least two are needed to train"),
        (
            "window = [0.5, 2.5]",
            "sfreq = 250.0\nband = [4, 80]",
            "rate 125 Hz is not above twice the band's upper edge",
        ),
        ('name = "south"', 'name = "south"\ncontract = { sfreq = 250 }', "site 'south' disagrees on the contract"),
    ],
)
def test_a_bad_federation_is_refused_before_anything_runs(tmp_path, old, new, message):
    assert old in tiny_toml()
    (tmp_path / "fed.toml").write_text(tiny_toml().replace(old, new, 1))
    for command in ("prepare", "simulate"):
        assert message in refused(command, "fed.toml", cwd=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_no_file_no_run(tmp_path, tiny_file):
    assert "nothing.toml: no such file" in refused("simulate", "nothing.toml", cwd=tmp_path)
    assert "no run here" in refused("evaluate", "nothing", cwd=tmp_path)
    assert "no run here" in refused("simulate", tiny_file, "--resume", "nothing", cwd=tmp_path)


def test_an_existing_run_folder_is_refused(tiny_file, make_run, prepared):
    run = make_run("first")
    err = refused("simulate", tiny_file, "--out", run.path, "--store", prepared, cwd=tiny_file.parent)
    assert "already exists; give another --out, or continue it with --resume" in err


def test_an_existing_run_folder_is_refused_before_the_file_is_even_read(tmp_path, make_run):
    run = make_run("first")
    assert "already exists" in refused("simulate", "nothing.toml", "--out", run.path, cwd=tmp_path)


def test_a_run_goes_on_without_its_file(tmp_path, make_run):
    run = make_run("first")
    code, out, err = mfscsn("simulate", "--resume", run.path, cwd=tmp_path)
    assert code == 0 and "run folder: first" in out, err
    assert RunFolder(run.path).last_round() == 2
    assert "training.seed was 0, is 5" in refused("simulate", "--resume", run.path, "--seed", 5, cwd=tmp_path)
    assert "give the federation's file, FED.toml, or --resume RUN" in refused("simulate", cwd=tmp_path)


def test_a_fault_of_ours_is_no_one_liner(tmp_path, tiny_file, monkeypatch):
    """torch says "RuntimeError" to a shape that does not fit and to a full memory: nothing that a user can mend."""

    def fault(*words, **named):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("experiments.prepare.prepare_sites", fault)
    code, _, err = mfscsn("prepare", tiny_file, cwd=tmp_path)
    assert code == 1 and "Traceback" in err and "in fault" in err
    assert err.splitlines()[-1] == "error: this is a fault in mfscsn; report it with all of the lines above"


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ("width = 20", (), "contract.width was 50, is 20"),
        ("", ("--rounds", "5"), "training.rounds was 2, is 5"),
        ("", ("--seed", "5"), "training.seed was 0, is 5"),
    ],
)
def test_resume_with_another_configuration_is_refused(tmp_path, make_run, change, words, message):
    run = make_run("first")
    (tmp_path / "fed.toml").write_text(tiny_toml(change))
    err = refused("simulate", "fed.toml", "--resume", run.path, *words, cwd=tmp_path)
    assert message in err and "start a new run" in err


def test_a_damaged_and_a_foreign_store_are_refused(tiny_file, copied_store):
    file = next(copied_store.glob("clinic-*/sub-1.npy"))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    err = refused("simulate", tiny_file, "--store", copied_store, "--out", "run", cwd=tiny_file.parent)
    assert "site 'north'" in err and "sub-1.npy: damaged" in err
    file.write_bytes(content)
    (file.parent / "manifest.json").write_text('{"format": "of another program"}')
    err = refused("prepare", tiny_file, "--store", copied_store, cwd=tiny_file.parent)
    assert "not a store of prepared trials" in err


def test_a_misspelt_command_is_suggested_once(tmp_path):
    for words in (("simulat", "x.toml"), ("site", "evaluat", "x")):
        assert refused(*words, cwd=tmp_path).count("Did you mean") == 1


def test_a_misspelt_option_is_no_traceback(tmp_path):
    assert "--rounds" in refused("simulate", "x.toml", "--round", "3", cwd=tmp_path)


def test_a_seed_that_torch_cannot_take_is_refused(tiny_file):
    assert "seed" in refused("simulate", tiny_file, "--seed", 2**64, "--out", "run", cwd=tiny_file.parent)
    assert not (tiny_file.parent / "run").exists()


def test_a_store_that_is_a_file_is_refused(tiny_file):
    (tiny_file.parent / "store").write_text("a file")
    assert "store" in refused("prepare", tiny_file, "--store", "store", cwd=tiny_file.parent)


def test_help_fits_a_screen(tmp_path):
    code, out, _ = mfscsn("--help", cwd=tmp_path)
    assert code == 0 and len(out.splitlines()) <= 50
    for command in ("doctor", "new", "prepare", "simulate", "report", "adopt", "evaluate", "demo"):
        assert command in out


def commands(group=None, path=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_each_example_in_the_help_is_a_command_that_is_understood():
    n = 0
    for path, command in commands():
        if not command.epilog:
            continue
        program, *words = shlex.split(command.epilog.removeprefix("Example: "))
        assert program == "mfscsn" and tuple(words[: len(path)]) == path, command.epilog
        command.make_context(path[-1], words[len(path) :])  # raises a UsageError
        n += 1
    assert n > 20


def test_progress_speaks_through_a_pipe(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("experiments.cli.show.time.monotonic", lambda: now[0])
    with ProgressLines() as show:
        for number in range(1, 31):
            now[0] += 3.0
            show.progress(Progress("rounds", number, 30, f"loss {number}"))
    assert capsys.readouterr().out.splitlines() == [
        "rounds 4/30, 12 s loss 4", "rounds 8/30, 24 s loss 8", "rounds 12/30, 36 s loss 12", "rounds 16/30, 48 s loss 16",  # noqa: E501
        "rounds 20/30, 60 s loss 20", "rounds 24/30, 72 s loss 24", "rounds 28/30, 84 s loss 28", "rounds 30/30, 90 s loss 30",  # noqa: E501
    ]  # fmt: skip


def test_short_help_and_groups(tmp_path):
    code, out, _ = mfscsn("-h", cwd=tmp_path)
    assert code == 0
    places = [out.index(f" {group} ─") for group in ("Start", "Run", "Look", "Share", "BEETL", "Deploy")]
    assert places == sorted(places)
    assert mfscsn("server", "train", "-h", cwd=tmp_path)[0] == 0
