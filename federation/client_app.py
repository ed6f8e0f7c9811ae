"""ClientApp: read the store, load the private layers, train, send the common layers. Nothing else leaves."""

import time
import traceback

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from data.errors import InputError
from federation.run_folder import RunFolder, run_path
from federation.site_network import site_network
from federation.site_trials import digest, training_trials
from federation.strategy import COMMON, CONFIG, METRICS, N_TRIALS, SITE
from mfscsn.training import derive_seed, train_round

SITE_FAILED = 1001  # the only code a site sends; what went wrong stays in its own log

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round at this site."""
    try:
        run = RunFolder(run_path(context.run_config, context.run_id))
        site = run.federation.site[int(context.node_config["partition-id"])]
        folder = run.site(site.name)
    except Exception:  # not even a folder to log to: this process's own output stays at the site
        traceback.print_exc()
        return Message(Error(SITE_FAILED, "a site could not open its folder"), reply_to=message)
    try:
        began, config = time.monotonic(), message.content.config_records[CONFIG]
        number, seed = int(config["server-round"]), run.federation.training.seed  # type: ignore[arg-type]
        contract = run.federation.contract
        if config["contract"] != contract.digest() or config["run"] != run.run_id:
            raise InputError("the server holds another contract, or another run, than this site")
        torch.set_num_threads(int(context.run_config["threads"]))

        trials = training_trials(site, contract, run.store)
        network = site_network(run.federation, site, run.store)
        trials_digest = digest(site, contract, run.store)
        private = folder.load_private(number - 1, trials_digest)
        if private:
            network.load_private(private[0])
        network.load_common(message.content.array_records[COMMON].to_torch_state_dict())
        log, optimiser_state = train_round(
            network,
            trials,
            run.federation.settings,
            round_number=number,
            seed=derive_seed(seed, site.name, number),
            optimiser_state=private[1] if private else None,
        )
        folder.save_private(number, network.private_state(), optimiser_state, trials_digest)

        seconds = time.monotonic() - began
        measured = {"loss": log.loss, "accuracy": log.accuracy, "seconds": round(seconds, 3)}
        folder.log(f"round {number}: {log.n_trials} trials, loss {log.loss:.4f}, {seconds:.2f} s")
        weight = 1 if contract.weighting == "equal" else log.n_trials
        reply = RecordDict(
            {
                COMMON: ArrayRecord(network.common_state()),
                METRICS: MetricRecord({N_TRIALS: weight, **{k: measured[k] for k in site.metrics}}),
                SITE: ConfigRecord({"name": site.name}),
            }
        )
        return Message(reply, reply_to=message)
    except Exception as error:
        folder.log(f"failed: {error if isinstance(error, InputError) else traceback.format_exc(limit=-4)}")
        return Message(Error(SITE_FAILED, f"site {site.name!r} failed; its own log says why"), reply_to=message)
