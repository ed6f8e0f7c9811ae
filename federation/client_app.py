"""ClientApp: read the store, load the private layers, train, send the common layers. Nothing else leaves."""

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from data.errors import InputError
from federation.contract import ONE_MESSAGE, Site
from federation.events import AUDIT, event, record
from federation.messages import (
    BUDGET_SPENT,
    COMMON,
    CONFIG,
    METRICS,
    N_TRIALS,
    OTHER_CONTRACT,
    REFUSALS,
    SITE,
    SITE_FAILED,
    SUMMED_BEFORE,
)
from federation.privacy.ledger import LEDGER, BudgetSpent
from federation.run_folder import RunFolder, forget_older_sums, run_path
from federation.site import AlreadySummed, SiteFolder, check_finite, fail
from federation.site_home import SCORED, OtherContract, SiteHome
from federation.site_network import server_network, site_network, site_seed
from federation.site_scores import held_out_accuracy, mean_score
from mfscsn.training import derive_seed, train_round

LAST = 10**9  # no round comes after it

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round at this site."""

    def work(message: Message, run: RunFolder, site: Site, folder: SiteFolder) -> RecordDict:
        if not 0 < _number(message) <= run.federation.training.rounds:  # another round would be another secure sum
            last = run.federation.training.rounds
            raise InputError(f"the server asks for round {_number(message)}, this run has 1 to {last}; refused")
        if run.federation.contract.secure_aggregation:
            return _train_in_secret(message, context, run, site, folder)
        if set(message.content) != {COMMON, CONFIG}:
            raise InputError(f"the server sent the records {sorted(message.content)}, expected {[COMMON, CONFIG]}")
        return _train(message, context, run, site, folder)

    return _answer(message, context, work)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Keep the common layers of the last round, and say what scores this site lets out."""

    def work(message: Message, run: RunFolder, site: Site, folder: SiteFolder) -> RecordDict:
        return _evaluate(message, context, run, site, folder)

    return _answer(message, context, work)


def _train(message: Message, context: Context, run: RunFolder, site: Site, folder: SiteFolder) -> RecordDict:
    began, number = time.monotonic(), _number(message)
    contract = run.federation.contract
    settings = replace(run.federation.settings, rounds=int(_config(message)["rounds"]))  # type: ignore[arg-type]
    now = settings.in_round(number)
    torch.set_num_threads(int(run.environment["threads"]))

    if (newest := folder.private_round(LAST)) is not None and number < newest:
        raise InputError(f"the server goes back to round {number}, but this site has trained round {newest} already")
    before = folder.private_round(number - 1)
    folder.log(f"round {number}: trains on, private layers of {f'round {before}' if before else 'the start'}")
    opened = run.trials(site)
    trials = opened.training()
    network = site_network(run.federation, opened)
    trials_digest = opened.digest()
    private = folder.load_private(number - 1, trials_digest)
    if private:
        network.load_private(private[0])
    network.load_common(_common(message))
    held_out = math.nan
    if private and "held_out" in site.metrics:
        held_out = held_out_accuracy(run.federation, opened, network)
    optimiser_state = private[1] if private else None
    ledger = Path(str(context.node_config.get("site", folder.folder))) / LEDGER
    if contract.noise_multiplier and site.privacy is not None:
        from federation.privacy.persons import charge, with_noise  # OpenDP, which others do not need

        log, optimiser_state = train_round(network, trials, settings, seed=0)
        if (sent := folder.load_sent(number, trials_digest)) is not None:
            network.load_common(sent)  # the same message again tells nothing new, and costs nothing
        else:
            epsilon = charge(ledger, site.privacy, contract, run.run_id, number)
            folder.log(f"round {number}: epsilon {epsilon:.3g} of {site.privacy.epsilon:g} of a person")
            with_noise(network, contract)
            folder.save_sent(number, network.common_state(), trials_digest)
    elif site.privacy is None:
        seed = derive_seed(site_seed(run.federation, site), site.name, number)
        log, optimiser_state = train_round(
            network, trials, now, seed=seed, optimiser_state=optimiser_state, device=run.device
        )
    else:
        from federation.privacy.private_training import (  # Opacus, which others do not need
            ChargedRound,
            train_within_budget,
        )

        charged = ChargedRound(ledger, site.privacy, run.run_id, number)
        log, optimiser_state, epsilon = train_within_budget(charged, network, trials, now, optimiser_state, run.device)
        folder.log(f"round {number}: epsilon {epsilon:.3g} of {site.privacy.epsilon:g}, delta {site.privacy.delta:g}")
    check_finite(network.common_state())
    folder.save_private(number, network.private_state(), optimiser_state, trials_digest)

    seconds = time.monotonic() - began
    measured = {"loss": log.loss, "accuracy": log.accuracy, "held_out": held_out, "seconds": round(seconds, 3)}
    measured = {name: value for name, value in measured.items() if math.isfinite(value)}  # sums have no loss
    told = "" if site.privacy or "loss" not in measured else f" loss {log.loss:.4f},"  # no noise covers it
    folder.log(f"round {number}: {log.n_trials} trials,{told} {seconds:.2f} s")
    weight = 1 if contract.weighting == "equal" else log.n_trials
    return RecordDict(
        {
            COMMON: ArrayRecord(network.common_state()),
            METRICS: MetricRecord({N_TRIALS: weight, **{k: measured[k] for k in site.metrics if k in measured}}),
            SITE: _name(site),
        }
    )


def _train_in_secret(message: Message, context: Context, run: RunFolder, site: Site, folder: SiteFolder) -> RecordDict:
    """Answer one stage of secure aggregation: keys, shares of secrets, the masked update, shares again."""
    from federation.privacy.secagg import answer_stage  # Flower's protocol, which a plain run does not need

    home = context.node_config.get("site")

    def train() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
        content = _train(message, context, run, site, folder)
        after = content.array_records[COMMON].to_torch_state_dict()
        before = _common(message)
        folder.keep_start(_number(message), before)
        if run.federation.contract.strategy == ONE_MESSAGE:
            # Sums begin at zero, whatever was sent: else who chooses it learns from a refusal what a number is
            before = {name: torch.zeros_like(values) for name, values in after.items()}
        return before, dict(after), int(content.metric_records[METRICS][N_TRIALS])  # type: ignore[arg-type]

    def uncovers(nodes: Sequence[int]) -> None:
        if len(nodes) < run.federation.min_sites:
            raise InputError(
                f"the server asks to uncover a sum of {len(nodes)} sites, and min_sites is"
                f" {run.federation.min_sites}; refused"
            )
        folder.uncovers(_number(message), nodes, run.trials(site).digest())
        if home is not None and run.federation.contract.strategy != ONE_MESSAGE:  # there a sum begins at zero
            SiteHome(str(home)).uncovers(folder.start(_number(message)), nodes)

    answer = answer_stage(message, context, run.federation.contract, train, uncovers)
    return RecordDict({**answer, SITE: _name(site)})


def _evaluate(message: Message, context: Context, run: RunFolder, site: Site, folder: SiteFolder) -> RecordDict:
    number, layers = _number(message), _common(message)
    if number != run.federation.training.rounds:
        raise InputError(f"the server asks for scores in round {number}; they leave after the last round")
    if number in run.kept_rounds():
        before = run.load_common(number)
        if any(not torch.equal(before[name], layers[name]) for name in before):
            raise InputError("the server asks for the scores of other layers")  # it may not try them on the test trials
    server_network(run.federation).load_common(layers)  # they must fit before they are kept
    run.keep_common(number, layers)
    if context.node_config.get("site") is not None:
        forget_older_sums(run)
    scores: dict[str, int | float] = {}
    home = context.node_config.get("site")
    if not site.scores or folder.private_round(number) is None:
        pass
    elif home is not None and not SiteHome(str(home)).lets_scores_out(run.federation.digest(), run.run_id):
        folder.log(f"round {number}: scores of another run under this contract have left; {SCORED} says which")
    else:
        scores = mean_score(run, site)
    folder.log(f"round {number}: the last; sends {' and '.join(scores) or 'no score'}")
    return RecordDict({METRICS: MetricRecord({**scores}), SITE: _name(site)})


def _answer(
    message: Message, context: Context, work: Callable[[Message, RunFolder, Site, SiteFolder], RecordDict]
) -> Message:
    """Do the work of a message; whatever fails, only a fixed code and the site's name leave."""
    name, folder, number = "unknown", None, 0
    try:
        number = _number(message)
        run, site = _open(message, context)
        name, folder = site.name, run.site(site.name)
        if (_config(message)["contract"], _config(message)["run"]) != (run.federation.digest(), run.run_id):
            raise OtherContract("the server holds another contract; ask for its invitation again")
        folder.forget_failure()
        content = work(message, run, site, folder)
        if (home := context.node_config.get("site")) is not None:
            leaves = {key: sorted(records) for key, records in content.items()}
            record(Path(str(home)) / AUDIT, "left", run=run.run_id, round=number, records=leaves)
        return Message(content, reply_to=message)
    except OtherContract as error:
        line = f"round {number}: refused, {error}"
        event(line) if folder is None else folder.log(line)
        return Message(Error(OTHER_CONTRACT, f"site {name!r} {REFUSALS[OTHER_CONTRACT]}"), reply_to=message)
    except BudgetSpent as error:
        assert folder is not None
        folder.log(f"round {number}: not trained, {error}")
        return Message(Error(BUDGET_SPENT, f"site {name!r} {REFUSALS[BUDGET_SPENT]}"), reply_to=message)
    except AlreadySummed as error:
        assert folder is not None
        folder.log(f"round {number}: refused, {error}")
        return Message(Error(SUMMED_BEFORE, f"site {name!r} {REFUSALS[SUMMED_BEFORE]}"), reply_to=message)
    except Exception as error:
        why = str(error) if isinstance(error, InputError) else traceback.format_exc(limit=-4)
        line = f"round {number}: failed with {type(error).__name__}; failure.txt"
        if folder is not None:
            folder.fail(why)
            folder.log(f"{line} beside this log says why")
        elif (home := context.node_config.get("site")) is not None:
            fail(Path(str(home)), why)
            event(f"{line} in the site's folder says why")
        else:  # a simulation without a folder to write to
            print(why, flush=True)
        return Message(Error(SITE_FAILED, f"site {name!r} {REFUSALS[SITE_FAILED]}"), reply_to=message)


def _open(message: Message, context: Context) -> tuple[RunFolder, Site]:
    """Find the run's folder and the site: at a site of a deployment by its own files, never by the server's words."""
    home, config = context.node_config.get("site"), _config(message)
    if home is not None:
        rounds = int(config["rounds"])  # type: ignore[arg-type]
        return SiteHome(str(home)).open_run(str(config["run"]), rounds, str(config["contract"]))
    run = RunFolder(run_path(context.run_config, context.run_id))
    return run, run.federation.site[int(context.node_config["partition-id"])]


def _name(site: Site) -> ConfigRecord:
    return ConfigRecord({"name": site.name})


def _config(message: Message) -> ConfigRecord:
    return message.content.config_records[CONFIG]


def _number(message: Message) -> int:
    return int(_config(message)["server-round"])  # type: ignore[arg-type]


def _common(message: Message) -> dict[str, torch.Tensor]:
    layers = message.content.array_records[COMMON].to_torch_state_dict()
    for layer, values in layers.items():
        if not torch.isfinite(values).all():
            raise InputError(f"the server sent a value that is not finite in layer {layer}")
    return dict(layers)
