"""ServerApp: one of Flower's own strategies over the common layers, round by round, into a run folder."""

from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from data.errors import InputError
from federation.contract import Federation, load_federation
from federation.patience import PatientGrid
from federation.run_folder import RunFolder, forget_older_sums, run_path
from federation.site_network import server_network
from federation.strategy import RoundFailed, RunFailed, make_strategy

TRIES = 3  # of a round in a deployment, where a site that failed may be back in the next one

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from its last completed round to its last round."""
    run = open_run(context)
    register = str(context.run_config["nodes"])
    with run.locked("server", wait=30.0):
        try:
            if register:
                deploy(PatientGrid(grid, partial(fewest_good, run.federation)), run, Path(register))  # type: ignore[arg-type]
            else:
                federate(grid, run)
        except Exception as error:
            run.fail(str(error) if isinstance(error, RunFailed | InputError) else f"{type(error).__name__}: {error}")
            raise


def fewest_good(federation: Federation, n_asked: int) -> int:
    """Return how many good replies a round of so many asked sites must have for its strategy to use them."""
    needed = max(federation.min_sites, federation.contract.fewest_replies())
    if not federation.contract.secure_aggregation:
        return needed
    from federation.privacy.secagg import threshold  # Flower's protocol, which a plain run does not need

    return max(needed, threshold(n_asked))


def federate(grid: Grid, run: RunFolder, nodes: Path | None = None) -> None:
    """Average common layers for the rounds that are left."""
    run.drop_unfinished()
    contract, training = run.federation.contract, run.federation.training
    done = run.last_round()
    layers = run.load_common(done) if done else server_network(run.federation).common_state()
    strategy = make_strategy(contract, run, done + 1, nodes)
    strategy.restore(run.load_server_optimiser(done))
    if contract.secure_aggregation:
        from federation.privacy.secure_grid import SecureGrid  # Flower's protocol, which a plain run does not need

        grid = SecureGrid(grid, contract, RoundFailed, run.keep_secure_aggregation)  # type: ignore[assignment]
    strategy.start(grid, ArrayRecord(layers), num_rounds=training.rounds - done, timeout=contract.deadline)


def deploy(grid: Grid, run: RunFolder, nodes: Path) -> None:
    """Federate with sites that come and go; then hand them the last layers, and keep the scores they let out."""
    tries, reached = 0, run.last_round()
    while True:
        try:
            federate(grid, run, nodes)
            break
        except RoundFailed:
            tries = tries + 1 if run.last_round() == reached else 1
            reached = run.last_round()
            if tries == TRIES:
                raise
    contract, last = run.federation.contract, run.last_round()
    strategy = make_strategy(contract, run, last, nodes)
    strategy.finish(grid, ArrayRecord(run.load_common(last)), contract.deadline)
    forget_older_sums(run)


def open_run(context: Context) -> RunFolder:
    """Open the run that `mfscsn simulate` has made, or make it, when plain Flower starts this app."""
    path = run_path(context.run_config, context.run_id)
    if not (path / "federation.toml").exists():
        file = Path(str(context.run_config["federation"]))
        app_folder = Path(__file__).resolve().parent.parent
        federation = load_federation(file if file.is_absolute() else app_folder / file)
        store = Path(str(context.run_config["store"]))
        return RunFolder.create(path, federation, store, int(context.run_config["threads"]))
    return RunFolder(path)
