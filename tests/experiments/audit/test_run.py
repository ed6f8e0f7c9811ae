"""The audit's attacks work where nothing protects, and are honest where something does."""

import csv
import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from conftest import LoopGrid, federation_of, mfscsn, refused, tiny_toml

from data.errors import InputError
from data.store import Store
from experiments.audit import run as audit_run
from experiments.audit.byzantine import flipped_store, score_beside, spoiled
from experiments.audit.identity import n_named
from experiments.audit.inversion import TrialForm, gradient_of_trial, invert, likeness, log_band_powers
from experiments.audit.labels import LAST, named_pair, rows_by_label
from experiments.audit.membership import auc, infer_membership, parted
from experiments.audit.run import audit, check_auditable, playable, plays_of
from experiments.audit.views import View, joined, summed, trained, update_of_round
from experiments.prepare import prepare_sites
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_scores import mean_score
from mfscsn.branch import Branch, BranchTrials
from mfscsn.heads import start_by_label
from mfscsn.network import Architecture, SeparateCommonSeparate
from mfscsn.settings import Settings

AUDITED = tiny_toml('alignment = "standard"\nweighting = "equal"', "lr = 1e-3").replace('"shallow"', '"shallow-group"')


def network_of(seed: int, n_chans: int = 4) -> SeparateCommonSeparate:
    return SeparateCommonSeparate(Architecture(256, 128.0, "shallow-group"), {"a": Branch(n_chans, 2)}, seed)


@pytest.fixture
def trials():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((48, 4, 256)).astype(np.float32)
    return BranchTrials(noise, rng.integers(0, 2, 48), ("x", "y"))


@pytest.fixture
def audited(tmp_path, prepared):
    federation = prepare_sites(federation_of(AUDITED, tmp_path), prepared)  # it names the subjects
    return RunFolder.create(tmp_path / "run", federation, prepared, 1)


def test_a_trial_is_made_anew_from_all_layers_and_not_from_the_common_ones():
    network, strange = network_of(0).double().eval(), network_of(1).double().eval()
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft(rng.standard_normal((4, 256)))
    frequency = np.fft.rfftfreq(256, 1 / 128)
    x = torch.from_numpy(np.fft.irfft(spectrum * ((frequency >= 4) & (frequency <= 38)), 256))
    label, usual = torch.tensor(1), np.zeros((5, 4))
    found = {}
    for view, attacker in ((View(everything=True), network), (View(), strange)):
        gradients = gradient_of_trial(network, "a", x, label, view)
        assert gradients.keys() == set(view.names(network))
        made = invert(attacker, "a", gradients, label, TrialForm(4, 256, 128.0, (4.0, 38.0)), seed=0)
        found[view] = likeness(made, x, usual, 128.0)
    assert found[View(everything=True)].correlation > 0.6
    assert found[View()].correlation < 0.3
    assert likeness(-x, x, usual, 128.0).correlation == pytest.approx(1)


def test_noise_covers_a_gradient():
    network = network_of(0).double().eval()
    x = torch.randn(4, 256, dtype=torch.float64)
    plain, noisy = (
        joined(gradient_of_trial(network, "a", x, torch.tensor(0), View(everything=True, noise_multiplier=noise)))
        for noise in (None, 1.0)
    )
    assert float(noisy.std()) == pytest.approx(1.0, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([plain, noisy]))[0, 1])) < 0.1


def test_log_power_is_of_the_bands():
    seconds = np.arange(256) / 128
    alpha = np.sin(2 * np.pi * 8 * seconds)[None, None]
    power = log_band_powers(alpha, 128.0)
    assert power.shape == (1, 5, 1) and power[0, :, 0].argmax() == 0


def test_parts_do_not_overlap(trials):
    parts = parted({"a": trials}, 3)["a"]
    seen = [signal.tobytes() for part in parts for signal in part.signals]
    assert [len(part.labels) for part in parts] == [24, 12, 12] and len(set(seen)) == 48


def test_what_trained_is_told_by_its_loss_and_by_the_common_layers_much_less(trials):
    settings = Settings(rounds=30, batch_size=8)
    parts = parted({"a": trials}, 0)
    target = trained(network_of(0), {"a": parts["a"][0]}, settings, View(), seed=0)
    found = {
        view: auc(*infer_membership(target, network_of(1), parts, settings, view, seed=0))
        for view in (View(everything=True), View())
    }
    assert found[View(everything=True)][0] > 0.8 and found[View()][0] < found[View(everything=True)][0]
    low, high = found[View()][1:]
    assert low <= found[View()][0] <= high


def test_the_area_is_right():
    area, low, high = auc(np.array([0.1, 0.4, 0.35, 0.8] * 20), np.array([False, False, True, True] * 20))
    assert area == pytest.approx(0.75) and low < 0.75 < high


def test_an_update_takes_the_nearest_name():
    axes = torch.eye(3)
    assert n_named([*axes], [axes[0] * 9, axes[1] + 0.1, axes[2]]) == 3
    assert n_named([*axes], [axes[1], axes[0], axes[2]]) == 1


def test_updates_are_of_the_layers_that_are_seen(trials):
    network = network_of(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = update_of_round(network, {"a": trials}, Settings(), View(), seed=0)
    assert found.keys() == {"common.0.weight", "common.0.bias"} and found["common.0.weight"].any()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_sum_hides_only_what_several_sites_have():
    own, other = (
        {"a": torch.tensor([4.0]), "b": torch.tensor([6.0])},
        {"a": torch.tensor([2.0]), "c": torch.tensor([9.0])},
    )
    assert summed(own, [other]) == {"a": torch.tensor([3.0]), "b": torch.tensor([6.0])}


def test_frozen_layers_stay(trials):
    network = network_of(0)
    after = trained(network, {"a": trials}, Settings(rounds=2), View(), 0, frozen=network.common_names())
    assert torch.equal(after.common[0].weight, network.common[0].weight)
    assert not torch.equal(after.heads["of-a"][0].weight, network.heads["of-a"][0].weight)


IN_SPACE = Architecture(256, 128.0, "common-space", electrodes=("FC3", "FC4", "C3", "Cz", "C4", "CP3", "CP4"))
WORDS = ("feet", "hands", "left_hand", "rest", "right_hand", "tongue")


def anchored(names, seed=0):
    """A site in the common space as a run starts it: layers of the run's seed, a head of its labels' rows."""
    network = IN_SPACE.build({"a": Branch(4, len(names), names)}, seed)
    start_by_label(network.head("a"), names, seed)
    network.anchor_heads()
    return network


def test_an_update_of_the_common_layers_names_two_labels_of_its_site_and_another_seed_does_not():
    rng, rows, right = np.random.default_rng(0), {}, {0: 0, 1: 0}
    pairs = list(itertools.combinations(WORDS, 2))
    for names in pairs:
        signals = rng.standard_normal((96, 7, 256)).astype(np.float32)
        trials = BranchTrials(signals, rng.integers(0, 2, 96), names)
        network = anchored(names)
        update = update_of_round(network, {"a": trials}, Settings(), View(), seed=1)[LAST]
        for seed in (0, 1):  # the run's, and one that a server does not know
            rows = rows_by_label(network.head("a").in_features, len(update), WORDS, seed)
            right[seed] += named_pair(update, rows) == names
    assert right[0] >= 12 and right[1] <= 4, right  # of 15; by chance one


def test_in_the_common_space_all_but_noise_is_played(tmp_path, prepared):
    text = tiny_toml().replace('"shallow"', '"common-space"')
    run = RunFolder.create(tmp_path / "space", prepare_sites(federation_of(text, tmp_path), prepared), prepared, 1)
    assert playable(run) == ["inversion", "membership", "identity", "labels"]
    jobs = plays_of(run, ["inversion", "membership", "labels"], 1)
    assert len(jobs) == 4 + 1 + 1
    findings = audit(run, ["membership", "identity", "labels"], 1, 1, lambda *step: None)
    assert {f.part for f in findings} == {"membership", "subject", "site", "labels"}
    assert not any("noise" in f.view for f in findings)
    (named,) = [f for f in findings if f.part == "labels"]
    assert named.n == 2 and named.chance == pytest.approx((1 / 15 + 3 / 15) / 2)


def test_a_sum_is_attacked_as_a_federation_leaves_it(audited, tmp_path, monkeypatch):
    """Layers of sites that each trained alone, averaged at the end, decode nothing, and would hide what trained."""
    seen = defaultdict(list)

    def spy(target, strange, parts, settings, view, seed):
        seen[str(view)].append(joined(target.common_state()))
        return np.array([0.1, 0.2]), np.array([True, False])

    monkeypatch.setattr(audit_run, "infer_membership", spy)
    audit_run.membership(audited, 0, 0, tmp_path)
    assert torch.equal(*seen["common layers, secure sum"]) and not torch.equal(*seen["common layers"])


def test_a_trial_of_the_common_space_is_searched_by_all_that_is_seen():
    network, rng = anchored(("left_hand", "right_hand")).double().eval(), np.random.default_rng(1)
    frequency = np.fft.rfftfreq(256, 1 / 128)
    spectra = np.fft.rfft(rng.standard_normal((2, 7, 256))) * ((frequency >= 4) & (frequency <= 38))
    x, other = torch.from_numpy(np.fft.irfft(spectra, 256))
    label, form, far = torch.tensor(1), TrialForm(7, 256, 128.0, (4.0, 38.0)), []
    gradients = gradient_of_trial(network, "a", x, label, View())
    assert gradients.keys() == set(network.common_names())
    made = invert(network, "a", gradients, label, form, seed=0)
    for trial in (made, other):
        again = gradient_of_trial(network, "a", trial, label, View())
        far.append(float((joined(again) - joined(gradients)).norm() / joined(gradients).norm()))
    assert far[0] < 0.2 * far[1]  # a trial that leaves the same gradient, though perhaps not the one that did


def test_what_a_byzantine_sends():
    before, after = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([2.0, 0.0])}
    assert torch.equal(spoiled(before, after, "none", 0)["w"], after["w"])
    assert torch.equal(spoiled(before, after, "sign flipped", 0)["w"], torch.tensor([-49.0, 51.0]))
    assert torch.equal(spoiled(before, after, "scaled", 0)["w"], torch.tensor([51.0, -49.0]))
    moved = spoiled(before, after, "random", 0)["w"] - before["w"]
    assert float(moved.norm()) == pytest.approx(50 * 2**0.5)


@pytest.mark.parametrize(("attack", "strategy"), [("sign flipped", "fedavg"), ("labels flipped", "fedmedian")])
def test_the_others_are_scored_beside_a_byzantine_site(tmp_path, audited, attack, strategy):
    north, south = audited.federation.site
    scores, runs = {}, {}
    for name in ("none", attack):
        scores[name] = score_beside(audited.federation, audited.store, north, name, strategy, tmp_path / name)
        runs[name] = RunFolder(tmp_path / name / "run")
        assert runs[name].last_round() == 2 and runs[name].federation.contract.strategy == strategy
        assert {row["status"] for row in runs[name].history()} == {"ok"}  # the server lets it through
        assert scores[name] == mean_score(runs[name], south)["balanced_accuracy"]
    honest, attacked = (runs[name].load_common(2) for name in ("none", attack))
    assert any(not torch.equal(attacked[layer], honest[layer]) for layer in honest)


def test_labels_are_flipped_at_the_byzantine_alone(tmp_path, audited, prepared):
    federation = audited.federation
    prepared_names = [
        s.dataset[0].model_copy(update={"subjects": [t]}) for s, t in zip(federation.site, ("3", "1"), strict=True)
    ]
    south = federation.site[1].model_copy(update={"dataset": [prepared_names[1]]})
    flipped_store(prepared, tmp_path / "flipped", federation, south)
    folder = south.dataset[0].recipe(federation.contract).folder
    before, after = (Store(folder(root)).trials("1").labels for root in (prepared, tmp_path / "flipped"))
    following = {"left_hand": "right_hand", "right_hand": "rest", "rest": "left_hand"}
    assert [following[label] for label in before] == after.tolist()
    assert (
        Store(folder(tmp_path / "flipped")).trials("2").labels.tolist()
        == Store(folder(prepared)).trials("2").labels.tolist()
    )
    north = federation.site[0].dataset[0].recipe(federation.contract).folder
    assert (
        Store(north(tmp_path / "flipped")).trials("3").labels.tolist()
        == Store(north(prepared)).trials("3").labels.tolist()
    )


def test_the_command_prints_writes_and_draws(tmp_path, audited):
    federate(LoopGrid(audited), audited)
    words = ("audit", audited.path, "--parts", "identity,price", "--seeds", "1")
    code, out, err = mfscsn(*words, cwd=tmp_path)
    assert code == 0, err
    with (audited.path / "audit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == {"subject", "site", "price"}
    epsilons = [float(row["value"]) for row in rows if row["measure"] == "epsilon"]
    assert len(epsilons) == 3 and epsilons == sorted(epsilons, reverse=True)
    assert "common layers, secure sum" in out and "(chance)" in out
    assert (audited.path / "audit.svg").exists() and not (audited.path / "audit").exists()


def test_an_audit_that_fails_leaves_the_earlier_one(audited, monkeypatch):
    (audited.path / "audit.csv").write_text("an hour's work")
    monkeypatch.setattr("experiments.audit.run.start_workers", lambda *words, **named: Broken())
    monkeypatch.setattr("experiments.audit.run.stop_workers", lambda pool: None)
    with pytest.raises(KeyboardInterrupt):
        audit(audited, ["identity"], 1, 1, lambda *step: None)
    assert (audited.path / "audit.csv").read_text() == "an hour's work"


class Broken:
    def submit(self, *words):
        raise KeyboardInterrupt


def test_sites_of_one_subject_each_have_nobody_to_tell_apart(tmp_path, prepared):
    text = AUDITED.replace("targets = [3]", "subjects = [1]").replace("targets = [1, 2]", "subjects = [1]")
    run = RunFolder.create(tmp_path / "one", prepare_sites(federation_of(text, tmp_path), prepared), prepared, 1)
    with pytest.raises(InputError, match="no site has two subjects to tell apart; leave identity out of --parts"):
        check_auditable(run, ["identity"])
    check_auditable(run, ["membership"])


def test_what_cannot_be_audited_is_refused(tmp_path, audited, make_run, prepared):
    assert "does not name its subjects" in refused("audit", make_run("nameless").path, cwd=tmp_path)

    def run_with(extractor):
        federation = prepare_sites(federation_of(tiny_toml(extractor=extractor), tmp_path), prepared)
        return RunFolder.create(tmp_path / extractor, federation, prepared, 1)

    shallow, covariances = run_with("shallow"), run_with("riemann")
    for part, why in (("price", "has no price of differential privacy"), ("labels", "looked for in body.pointwise")):
        line = refused("audit", shallow.path, "--parts", part, cwd=tmp_path)
        assert why in line and f"leave {part} out of --parts" in line and "validation error" not in line
    with pytest.raises(InputError, match="takes covariances, not signals; leave inversion out"):
        check_auditable(covariances, ["inversion"])
    assert playable(covariances) == ["membership", "identity"]
    byzantine = refused("audit", audited.path, "--parts", "byzantine", cwd=tmp_path)
    assert "2 sites; of 5 one may be Byzantine" in byzantine
    assert "did you mean 'price'?" in refused("audit", audited.path, "--parts", "prise", cwd=tmp_path)
