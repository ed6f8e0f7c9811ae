import pytest
from conftest import federation_of, tiny_toml

from data.errors import InputError
from federation.contract import load_federation
from federation.tables import first_difference
from mfscsn.network import Architecture


def test_a_written_federation_reads_back_the_same(tmp_path):
    federation = federation_of(tiny_toml(), tmp_path)
    assert federation_of(federation.to_toml(), tmp_path / ".") == federation


def test_what_the_tables_mean(tmp_path):
    federation = federation_of(tiny_toml("width = 20", "lr = 1e-2"), tmp_path)
    assert federation.contract.architecture == Architecture(256, 128.0, band=(4.0, 38.0), width=20)
    assert federation.settings.lr == 1e-2 and federation.settings.proximal_mu == 0.0
    assert federation.site[0].dataset[0].name == "clinic" and federation.site[0].dataset[0].targets == ["3"]
    assert federation.min_sites == 2
    assert federation_of(tiny_toml('strategy = "fedprox"'), tmp_path).settings.proximal_mu > 0


def test_bids_folders_are_relative_to_the_file_or_to_a_given_root(tmp_path):
    text = tiny_toml().replace("simulated:clinic", "bids:eeg/clinic").replace("options = { n_subjects = 3", "#")
    (tmp_path / "fed.toml").write_text(text)
    assert load_federation(tmp_path / "fed.toml").site[0].dataset[0].source == f"bids:{tmp_path}/eeg/clinic"
    moved = load_federation(tmp_path / "fed.toml", tmp_path / "elsewhere")
    assert moved.site[0].dataset[0].source == f"bids:{tmp_path}/elsewhere/eeg/clinic"


def test_alignment_follows_the_extractor(tmp_path):
    assert federation_of(tiny_toml(), tmp_path).contract.alignment == "euclidean"
    riemann = federation_of(tiny_toml().replace('"shallow"', '"riemann"'), tmp_path)
    assert riemann.contract.alignment == "adaptive"
    assert federation_of(riemann.to_toml(), tmp_path).contract == riemann.contract


def test_tasks_may_be_renamed(tmp_path):
    text = tiny_toml().replace('tasks = ["right_hand", "rest"]', 'tasks = { right_hand = "grasp", rest = "rest" }')
    dataset = (federation := federation_of(text, tmp_path)).site[0].dataset[0]
    assert dataset.labels(federation.contract) == ("grasp", "rest")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[training]", "[trainning]", "trainning: unknown key; did you mean 'training'?"),
        ("window =", "windows =", "contract, windows: unknown key; did you mean 'window'?"),
        ("window = [0.5, 2.5]", 'window = [0.5, "x"]', "contract, window"),
        ("window = [0.5, 2.5]", "window = [2.5, 0.5]", "ends before it starts"),
        ("window = [0.5, 2.5]", "sfreq = 60.0", "sfreq 60 Hz is not above twice the band's upper edge of 38 Hz"),
        ("rounds = 2", "rounds = 0", "training, rounds: expected greater than or equal to 1, found 0"),
        ("rounds = 2", 'rounds = "two"', "training, rounds: expected a valid integer, found 'two'"),
        ("batch_size = 8", "lr = -1.0", "training, lr: expected greater than 0, found -1.0"),
        ('name = "north"', 'name = "south"', "sites: 'south' stands there twice"),
        ('name = "north"', "", "site 1, name: Field required"),
        ('name = "north"', 'name = "north"\nbranch_by = "site"', "site 'north', branch_by: expected 'dataset' or"),
        ("targets = [3]", "target = [3]", "site 'north', dataset 1, target: unknown key; did you mean 'targets'?"),
        ("targets = [3]", "targets = [3]\nsubjects = [1]", "target '3' is not among the subjects"),
        ("first = 12", "frist = 12", "calibration, frist: unknown key; did you mean 'first'?"),
        ("first = 12", 'sessions = ["0"], runs = ["0"]', "expected one of {runs = [...]}"),
        ("{ first = 12 }", "{}", "expected one of {runs = [...]}"),
        (
            'extractor = "shallow"',
            'extractor = "deep"',
            "contract, extractor: expected 'common-space', 'riemann', 'shallow' or 'shallow-group'",
        ),
        (
            'extractor = "shallow"',
            'alignment = "euclidean"',
            "alignment 'euclidean' does not fit extractor 'common-space'",
        ),
        (
            'extractor = "shallow"',
            'extractor = "shallow"\nalignment = "adaptive"',
            "takes one of euclidean, standard, none",
        ),
        (
            'extractor = "shallow"',
            'extractor = "common-space"\nelectrodes = "motor12"',
            "no set of electrodes 'motor12'; there are motor21, motor11",
        ),
        (
            'extractor = "shallow"',
            'extractor = "common-space"\nelectrodes = ["C3", "CZZ"]',
            "no position on the scalp is known of 'CZZ' (nearest: 'Cz')",
        ),
        (
            'extractor = "shallow"',
            'extractor = "common-space"\nbody = "eegnett"',
            "no body 'eegnett'; there are eegnet, tangent, and braindecode:MODEL",
        ),
        (
            'extractor = "shallow"',
            'extractor = "common-space"\nbody = "braindecode:EEGNett"',
            "braindecode has no model 'EEGNett'; did you mean 'EEGNet'?",
        ),
        (
            'extractor = "shallow"',
            'extractor = "common-space"\nheads = "site"',
            'the common space needs heads = "label"',
        ),
        (
            'extractor = "shallow"',
            'extractor = "common-space"\nshare = "all"',
            "share = 'all' needs labels = [...], the tasks of all sites",
        ),
        ("calibration = { first = 12 }", "", "targets need calibration"),
        ('tasks = ["right_hand", "rest"]', 'tasks = ["rest"]', "data set 'clinic' has the one class ['rest']"),
        ("window = [0.5, 2.5]", 'share = "all-but-head"', "share = 'all-but-head' needs channels = [...]"),
        ("window = [0.5, 2.5]", "min_sites = 3", "min_sites is 3, but there are 2 sites"),
        (
            'name = "north"',
            'name = "north"\ncontract = { sfreq = 160 }',
            "site 'north' disagrees on the contract: sfreq = 160 there, 128.0 in the federation",
        ),
        ('name = "north"', 'name = "north"\ncontract = { sfrq = 160 }', "contract.sfrq: unknown key; did you mean"),
        ("window = [0.5, 2.5]", "window = [0.5, 0.7]", "too short: filter and pooling need 50 samples"),
        ("window = [0.5, 2.5]", "window = [0.5, inf]", "contract, window 2: expected a finite number"),
        ("targets = [3]", "targets = [3]\nsubjects = [1, 3, 3]", "'3' stands there twice"),
        ("targets = [3]", "channels = []", "dataset 1, channels: List should have at least 1 item"),
        ("targets = [3]", 'channels = ["C3", "C3"]', "channels: 'C3' stands there twice"),
        ("targets = [3]", "subjects = []", "site 'north', dataset 1, subjects: List should have at least 1 item"),
        ("[training]", "[training", "cannot be read as TOML"),
        ("window = [0.5, 2.5]", 'alignment = "followed"', "'followed'; 'followed' is called 'adaptive' now"),
        ("window = [0.5, 2.5]", "bad_sites = 2", "bad_sites: unknown key; 'bad_sites' is called 'n_byzantine' now"),
        (
            'name = "north"',
            'name = "north"\nprivacy = { epsilon = 8.0, n_trials = 24, clip = 1.0 }',
            "privacy, clip: unknown key; 'clip' is called 'max_grad_norm' now",
        ),
    ],
)
def test_a_fault_is_one_line_that_names_it(tmp_path, old, new, message):
    assert old in tiny_toml()
    with pytest.raises(InputError) as caught:
        federation_of(tiny_toml().replace(old, new, 1), tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "federation-under-test.toml" in str(caught.value)


def test_a_site_may_insist_on_values_that_the_federation_has(tmp_path):
    federation_of(tiny_toml(north="contract = { sfreq = 128, window = [0.5, 2.5] }"), tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing.toml: no such file"):
        load_federation(tmp_path / "nothing.toml")


def test_digest_follows_all_that_sites_agree_on_but_not_the_number_of_rounds(tmp_path):
    digests = [
        federation_of(tiny_toml(**change), tmp_path).digest()
        for change in ({}, {"training": "seed = 5"}, {"contract": "width = 20"}, {"north": "metrics = []"})
    ]
    assert len(set(digests)) == 3 and digests[0] == digests[3]
    more = federation_of(tiny_toml().replace("rounds = 2", "rounds = 9"), tmp_path)
    assert more.digest() == digests[0] and more.training.rounds == 9


def test_first_difference_names_the_key():
    a, b = {"x": {"y": [1, {"z": 2}]}}, {"x": {"y": [1, {"z": 3}]}}
    assert first_difference(a, a) is None and first_difference(a, b) == "x.y.1.z was 2, is 3"
    assert first_difference({"x": 1}, {}) == "x was 1, is None"


def test_a_targets_test_trials_may_not_train_through_another_use_of_its_source(tmp_path):
    text = tiny_toml()
    north = text[text.index("[[site]]") : text.index('[[site]]\nname = "south"')]
    other = (
        north.replace('"north"', '"west"').replace("targets = [3]", "").replace('calibration = { runs = ["0"] }', "")
    )
    with pytest.raises(InputError, match="target '3' of 'simulated:clinic' also stands in another data set"):
        federation_of(text + other, tmp_path)
    federation_of(text + other + "subjects = [1, 2]\n", tmp_path)
    federation_of(text + north.replace('"north"', '"west"'), tmp_path)


def test_a_name_is_made_of_any_files_name(tmp_path):
    (tmp_path / "my fed.v2.toml").write_text(tiny_toml().replace('name = "tiny"', ""))
    assert load_federation(tmp_path / "my fed.v2.toml").name == "my-fed-v2"


def test_a_mark_at_the_files_beginning_is_passed_over(tmp_path):
    plain = federation_of(tiny_toml(), tmp_path)
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + tiny_toml().encode())
    assert load_federation(tmp_path / "marked.toml") == plain


def test_runs_and_sessions_may_be_numbers(tmp_path):
    text = tiny_toml().replace('runs = ["0"]', "runs = [0]", 1)
    assert federation_of(text, tmp_path).site[0].dataset[0].calibration.runs == ["0"]
    text = tiny_toml().replace('runs = ["0"]', 'sessions = [1, "2b"]', 1)
    assert federation_of(text, tmp_path).site[0].dataset[0].calibration.sessions == ["1", "2b"]


def test_a_band_without_a_view_is_refused_when_the_file_is_read(tmp_path):
    text = tiny_toml("band = [1.0, 4.0]").replace('"shallow"', '"riemann"')
    with pytest.raises(InputError, match=r"extractor 'riemann': band \[1.0, 4.0\] Hz holds the middle of none"):
        federation_of(text, tmp_path)
    narrow = federation_of(tiny_toml("sfreq = 40.0\nband = [8.0, 13.0]").replace('"shallow"', '"riemann"'), tmp_path)
    assert narrow.contract.architecture.build_extractor(4).projection.in_features == 2 * 10


def test_all_subjects_but_some(tmp_path):
    text = tiny_toml().replace("targets = [3]", "targets = [3]\nwithout = [1]")
    dataset = federation_of(text, tmp_path).site[0].dataset[0]
    assert dataset.without == ["1"] and dataset.used(["1", "2", "3"]) == ["2", "3"]
    with pytest.raises(InputError, match="target '3' stands in without, too"):
        federation_of(text.replace("without = [1]", "without = [3]"), tmp_path)


def test_labels_of_two_sites_that_differ_in_capitals_alone_are_asked_about(tmp_path):
    text = tiny_toml().replace('tasks = ["right_hand", "rest"]', 'tasks = { right_hand = "Right_Hand", rest = "rest" }')
    with pytest.raises(InputError, match="site 'north' says 'Right_Hand', site 'south' says 'right_hand': one task?"):
        federation_of(text, tmp_path)
    # Names in any script that differ are different
    assert federation_of(tiny_toml().replace('["right_hand", "rest"]', '{ right_hand = "手", rest = "足" }'), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("a = " + "9" * 6000, "cannot be read as TOML"),
        ("[a" + ".b" * 3000 + "]\n", "f.toml: "),
    ],
)
def test_a_hostile_toml_is_one_line(tmp_path, text, words):
    (tmp_path / "f.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        load_federation(tmp_path / "f.toml")
