import csv

import numpy as np
import pytest
from conftest import LoopGrid, mfscsn, refused, write_bids

from data.errors import InputError
from experiments.alone import LinearSite
from experiments.evaluate import check_alike, evaluate, local_network, network_answers
from experiments.predict import FederatedModel, OwnModel
from experiments.references import reference_jobs, train_references
from federation.server_app import federate
from federation.site_scores import balanced_accuracy, chosen_outputs


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
    mean = (network_answers(finished, trials, network, target) + linear.of_site(vectors, own)) / 2
    names = site.dataset[0].labels(finished.federation.contract)
    assert [row["predicted"] for row in rows] == [names[k] for k in chosen_outputs(mean, target.outputs)]
    assert np.abs(linear.of_site(vectors, own) - network_answers(finished, trials, network, target)).max() > 0.01
    recorded = trials.training_of("clinic", "3")
    told = OwnModel(finished, site.name).told("3", recorded)  # its own trials, told again
    alone = FederatedModel(finished, site.name)
    alone.network = network
    of_network = alone.told("3", recorded).probabilities
    of_linear = 2 * told.probabilities - of_network
    assert np.abs(of_linear - of_network).max() > 0.01 and of_linear.min() > -1e-6 and of_linear.max() < 1 + 1e-6
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
