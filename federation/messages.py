"""The words of a message between server and site: its records, what may leave a site, and why a site may refuse."""

COMMON, METRICS, SITE, CONFIG = "common", "metrics", "site", "config"
N_TRIALS = "num-examples"
MAY_LEAVE = {N_TRIALS, "loss", "accuracy", "held_out", "seconds"}
SCORES_MAY_LEAVE = {"n_targets", "balanced_accuracy"}

# All that a site says when it cannot answer: what went wrong stays in its own folder
SITE_FAILED, OTHER_CONTRACT, UNAPPROVED_APP, BUDGET_SPENT, SUMMED_BEFORE = 1001, 1002, 1003, 1004, 1005
REFUSALS = {
    SITE_FAILED: "failed; its own log says why",
    OTHER_CONTRACT: "holds another contract; send it the invitation again",
    UNAPPROVED_APP: "runs other code than the server's; install the same version at both ends",
    BUDGET_SPENT: "has spent its privacy budget, and trains no more",
    SUMMED_BEFORE: "summed what begins so over other sites before, and another sum would tell one update; come with the"
    " same sites, or begin a new run with another training.seed",
}

LONGEST = 200  # characters of what is kept and printed of another's words


def cleaned(text: str) -> str:
    """Return another's words as one short line that any terminal and any CSV bears."""
    line = "".join(c if c.isprintable() else "?" for c in text[: LONGEST + 1])
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


FEWEST = 4  # sites of a secure sum: of two, each knows the other's update; of three, two that tell know the third's
