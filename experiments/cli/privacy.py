"""`mfscsn privacy ...`: which noise multiplier, how many rounds, or which epsilon."""

import math
from dataclasses import dataclass
from typing import Annotated

import typer

from data.errors import InputError
from experiments.cli.options import takes
from experiments.cli.say import say

app = typer.Typer(
    no_args_is_help=True, suggest_commands=False, help="Plan a site's differential privacy (docs/privacy.md)."
)


@app.callback()
def _several() -> None:
    """Plan a site's differential privacy (docs/privacy.md)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `mfscsn privacy plan` is told."""

    trials: Annotated[
        int | None, typer.Option(min=1, help="Training trials of the site's largest data set.", show_default=False)
    ] = None
    person: Annotated[
        bool, typer.Option("--person", help="Of a whole person, in one message: a round is a message.")
    ] = False
    batch_size: Annotated[int, typer.Option(min=1, help="Of the federation's training.")] = 64
    local_epochs: Annotated[int, typer.Option(min=1, help="Of the federation's training.")] = 1
    delta: Annotated[float, typer.Option(help="With which probability more may be told.")] = 1e-5
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Deviation of the noise, over max_grad_norm.", show_default=False)
    ] = None
    rounds: Annotated[int | None, typer.Option(min=1, help="Of all runs together.", show_default=False)] = None
    epsilon: Annotated[float | None, typer.Option(help="The budget.", show_default=False)] = None


@app.command(epilog="Example: mfscsn privacy plan --trials 400 --rounds 50 --epsilon 8")
@takes(Plan)
def plan(asked: Plan) -> None:
    """Solve for noise multiplier, rounds or epsilon from the other two."""
    from federation.privacy.ledger import PERSON, UNIT, epsilon_of, least_noise_multiplier, most_rounds
    from federation.privacy.private_training import steps_of_round
    from mfscsn.settings import Settings

    trials, delta, person = asked.trials, asked.delta, asked.person
    noise_multiplier, rounds, epsilon = asked.noise_multiplier, asked.rounds, asked.epsilon
    given = {"--noise-multiplier": noise_multiplier, "--rounds": rounds, "--epsilon": epsilon}
    if sum(value is not None for value in given.values()) != 2:
        named = ", ".join(name for name, value in given.items() if value is not None) or "none"
        raise InputError(
            f"give two of --noise-multiplier, --rounds and --epsilon; the third is solved for (given: {named})"
        )
    for name, value in (("--noise-multiplier", noise_multiplier), ("--epsilon", epsilon), ("--delta", delta)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name}: expected a positive number, found {value:g}")
    if (trials is None) != person:
        raise InputError("give --trials, how many train at the site, or --person, for one message a person")
    if trials is not None and delta * trials >= 1:
        raise InputError(
            f"--delta: {delta:g} lets one of {trials} trials be told whole; take one below {1 / trials:.1g}"
        )
    steps, rate = 1, 1.0
    if trials is not None:
        steps, rate = steps_of_round(trials, Settings(local_epochs=asked.local_epochs, batch_size=asked.batch_size))
    if noise_multiplier is None:
        assert rounds is not None and epsilon is not None
        noise_multiplier = least_noise_multiplier(epsilon, delta, rate, rounds * steps)
    if rounds is None:
        assert epsilon is not None
        rounds = most_rounds(epsilon, delta, rate, steps, noise_multiplier)
    spent = epsilon_of([(noise_multiplier, rate, rounds * steps)] if rounds else [], delta)
    if trials is not None:
        say(f"{trials} trials: {steps} steps a round, a trial is in each with probability {rate:.3g}")
    what = f"round{'s' * (rounds != 1)}" if trials is not None else f"message{'s' * (rounds != 1)}"
    say(f"noise multiplier {noise_multiplier:.4g}, {rounds} {what}: epsilon {spent:.4g} at delta {delta:g}")
    say(f"unit: {PERSON if person else UNIT}")
