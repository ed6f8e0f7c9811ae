import csv

import numpy as np
import pytest
from conftest import LoopGrid, federation_of, mfscsn, refused, tiny_toml, write_bids

from data.errors import InputError
from experiments.alone import LinearSite
from experiments.decoder import Decoder
from experiments.evaluate import check_alike, evaluate, local_network
from experiments.predict import FederatedModel, OwnModel
from experiments.references import reference_jobs, train_references
from experiments.report.run import report
from federation.run_folder import RunFolder
from federation.server_app import federate
from federation.site_scores import balanced_accuracy, chosen_outputs, network_answers, network_temperature
from mfscsn import experts
from mfscsn.temperature import tempered


def test_balanced_accuracy_by_hand():
    """Three of one class, two right; one of another, right: (2/3 + 1) / 2."""
    probabilities = np.eye(2)[[0, 0, 1, 1]]
    assert np.isclose(balanced_accuracy(probabilities, np.array([0, 0, 0, 1]), np.array([0, 1])), (2 / 3 + 1) / 2)


def test_only_the_subjects_tasks_are_predicted():
    """The third output is the strongest everywhere, but not among the subject's tasks."""
    probabilities = np.array([[0.3, 0.1, 0.6], [0.1, 0.3, 0.6]])
    assert balanced_accuracy(probabilities, np.array([0, 1]), np.array([0, 1])) == 1.0


def test_a_prediction_that_the_test_does_not_hold_is_wrong_not_a_class():
    probabilities = np.eye(3)[[0, 1, 2, 2]]
    assert balanced_accuracy(probabilities, np.array([0, 1, 0, 1]), np.array([0, 1, 2])) == 0.5


def test_an_unfinished_run_is_refused(make_run):
    with pytest.raises(InputError, match="ended at round 0 of 2; go on with the command that began it"):
        evaluate(make_run())


def test_runs_of_different_configurations_are_not_averaged(make_run):
    one, other_seed, wider = (
        make_run("one"),
        make_run("two", training="seed = 7"),
        make_run("three", contract="width = 9"),
    )
    check_alike([one])
    check_alike([one, other_seed])
    with pytest.raises(InputError, match="three: cannot be averaged with .*one: contract.width was 50, is 9"):
        check_alike([one, other_seed, wider])


@pytest.fixture
def finished(make_run):
    run = make_run()
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    evaluate(run)
    return run


def test_local_site_is_the_mean_of_its_network_and_its_linear_classifier(finished):
    site = finished.federation.site[0]
    with (finished.path / "predictions.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if (r["site"], r["method"]) == (site.name, "local-site")]
    trials, linear = finished.trials(site), LinearSite(site, finished.federation.contract, finished.store)
    network = local_network(finished, site)
    ((target, (vectors, own)),) = zip(trials.targets(), linear.targets(), strict=True)
    from_network = network_answers(finished.federation, trials, network, target)
    mean = experts.averaged(
        [(0.5, "network", from_network), (0.5, "linear", linear.of_site(vectors, own))], target.outputs
    )
    names = site.dataset[0].labels(finished.federation.contract)
    assert [row["predicted"] for row in rows] == [names[k] for k in chosen_outputs(mean, target.outputs)]
    assert np.abs(linear.of_site(vectors, own) - from_network).max() > 0.01
    recorded = trials.training_of("clinic", "3")
    told = OwnModel(finished, site.name).told("3", recorded)  # its own trials, told again
    alone = FederatedModel(finished, site.name)
    alone.network = network
    of_network = alone.told("3", recorded).probabilities
    assert np.abs(told.probabilities - of_network).max() > 0.01
    assert told.probabilities.shape == (len(recorded), len(names)) and told.known
    np.testing.assert_allclose(told.probabilities.sum(axis=1), 1, atol=1e-6)


def test_what_a_site_has_alone_predicts_new_recordings(finished, tmp_path):
    write_bids(tmp_path / "today", ["3", "7"], ["1"], ["C3", "Cz", "C4", "FC1"], names=("cue",), n=6)
    words = ("predict", finished.path, "--site", "north", "--data", "bids:today", "--cues", "cue")
    for model in ((), ("--own",)):
        code, out, err = mfscsn(*words, *model, "--out", f"{len(model)}.csv", cwd=tmp_path)
        assert code == 0, out + err
    federated, alone = ((tmp_path / name).read_text().splitlines() for name in ("0.csv", "1.csv"))
    assert len(federated) == len(alone) == 13 and federated[0] == alone[0] and federated[1:] != alone[1:]
    (finished.path / "sites" / "north" / "local-site.safetensors").unlink()
    assert "this reference was not trained" in refused(*words, "--own", "--out", "2.csv", cwd=tmp_path)


def test_held_out_trials_are_scored_in_every_round_and_fit_a_temperature(tmp_path, prepared):
    """The history tells of the average of the round before; probabilities change, answers do not."""
    parts = 'first = 8 }\nheld_out = { runs = ["0"], after = 8 }\ntest = { runs = ["1"] }'
    text = tiny_toml(extractor="common-space").replace("first = 12 }", parts)
    federation = federation_of(text.replace("rounds = 2", "rounds = 3"), tmp_path)
    run = RunFolder.create(tmp_path / "run", federation, prepared, threads=1)
    federate(LoopGrid(run), run)
    train_references(run, reference_jobs(run), lambda done, total: None)
    evaluate(run)
    south = federation.site[1]
    told = [row["held_out"] for row in run.history() if row["site"] == south.name]
    assert told[0] == "" and all(0 <= float(share) <= 1 for share in told[1:])
    assert not any(row["held_out"] for row in run.history() if row["site"] != south.name)
    trials, network = run.trials(south), run.load_network(south.name)
    temperature = network_temperature(federation, trials, network)
    assert temperature not in (1.0, 0.05, 20.0)
    model, target = FederatedModel(run, south.name), next(trials.targets())
    plain = network_answers(federation, trials, network, target)
    with (run.path / "predictions.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if (r["site"], r["method"]) == (south.name, "mf-scsn")]
    kept = np.array([[float(r[f"p_{n}"]) for n in south.dataset[0].labels(federation.contract)] for r in rows])
    assert np.allclose(kept[: len(plain)], tempered(plain, temperature), atol=1e-5)
    assert np.abs(kept[: len(plain)] - plain).max() > 1e-4
    recorded = trials.tested_of(target.dataset, target.subject)
    assert np.allclose(model.told(target.subject, recorded).probabilities, kept[: len(plain)], atol=1e-5)
    decoder = Decoder.from_run(run, south.name, target.subject)
    assert decoder.temperature == temperature
    assert np.allclose(decoder.predict_proba(recorded.signals), kept[: len(plain)], atol=1e-4)
    page = report(run).read_text()
    assert (
        "balanced accuracy, held out by round" in page and f"{temperature:.2f}" in page[page.index("sure without it") :]
    )
