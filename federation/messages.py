"""The words of a message between server and site: its records, what may leave a site, and why a site may refuse."""

COMMON, METRICS, SITE, CONFIG = "common", "metrics", "site", "config"
N_TRIALS = "num-examples"
MAY_LEAVE = {N_TRIALS, "loss", "accuracy", "seconds"}
SCORES_MAY_LEAVE = {"n_targets", "balanced_accuracy"}

# All that a site says when it cannot answer: what went wrong stays in its own folder
SITE_FAILED, OTHER_CONTRACT, UNAPPROVED_APP, BUDGET_SPENT = 1001, 1002, 1003, 1004
REFUSALS = {
    SITE_FAILED: "failed; its own log says why",
    OTHER_CONTRACT: "holds another contract; send it the invitation again",
    UNAPPROVED_APP: "runs other code than the server's; install the same version at both ends",
    BUDGET_SPENT: "has spent its privacy budget, and trains no more",
}

FEWEST = 4  # sites of a secure sum: of two, each knows the other's update; of three, two that tell know the third's
