"""Score a BEETL answer, as the organisers do: every class weighs the same, over all 1000 trials together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.beetl import N_TEST, TARGETS
from data.beetl_answer import N_CODES

N_BOOTSTRAP = 10_000


@dataclass(frozen=True)
class Recall:
    """Of the trials of one class, how many were found, in percent."""

    code: int
    name: str
    n_trials: int
    percent: float


@dataclass(frozen=True)
class PartScore:
    """The score of one subject or data set, in percent, with the recall of each class."""

    name: str
    n_trials: int
    score: float
    interval: tuple[float, float]
    classes: tuple[Recall, ...]


@dataclass(frozen=True)
class BeetlScore:
    """The score of an answer, 0 to 100; chance is 33.33. `interval` is the bootstrap's 95 % one.

    `classes` are the submitted codes over all trials, whatever task they stand for.
    """

    total: float
    interval: tuple[float, float]
    classes: tuple[Recall, ...]
    datasets: tuple[PartScore, ...]
    subjects: tuple[PartScore, ...]


def points(answer: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Apply the organisers' formula: a trial of class k that is right earns ``100 / (n_classes * n_k)``.

    Parameters
    ----------
    answer, truth : array of int, shape (n_trials,)
        Codes 0 to 2. Classes that `truth` does not hold do not count.
    """
    return float(_points((answer == truth)[None], truth)[0])


def as_document(score: BeetlScore) -> dict[str, Any]:
    """Write a score in JSON types: total, A and B as numbers, then all parts with their classes."""

    def classes(recalls: tuple[Recall, ...]) -> dict[str, Any]:
        return {r.name: {"code": r.code, "n_trials": r.n_trials, "percent": r.percent} for r in recalls}

    def part(p: PartScore) -> dict[str, Any]:
        return {
            "score": p.score,
            "interval": list(p.interval),
            "n_trials": p.n_trials,
            "classes": classes(p.classes),
        }

    return {
        "total": score.total,
        "interval": list(score.interval),
        **{p.name: p.score for p in score.datasets},
        "classes": classes(score.classes),
        "datasets": {p.name: part(p) for p in score.datasets},
        "subjects": {p.name: part(p) for p in score.subjects},
    }


@dataclass(frozen=True)
class Gain:
    """How much better one answer is than another, in points, paired over trials; `interval` is the 95 % one."""

    points: float
    interval: tuple[float, float]


def gain(answer: NDArray[np.int64], other: NDArray[np.int64], truth: NDArray[np.int64], seed: int = 0) -> Gain:
    """Compare two answers to the same trials: drawing a trial anew takes both answers to it."""
    of_subject = np.repeat(np.arange(len(truth) // N_TEST), N_TEST)
    drawn = _drawn(truth, of_subject, np.random.default_rng(seed))
    both = [(codes == truth)[drawn] for codes in (answer, other)]
    low, high = np.percentile(_points(both[0], truth) - _points(both[1], truth), [2.5, 97.5])
    return Gain(points(answer, truth) - points(other, truth), (float(low), float(high)))


def score(answer: NDArray[np.int64], truth: NDArray[np.int64], phase: str = "final", seed: int = 0) -> BeetlScore:
    """Score an answer of 1000 codes in the organisers' order.

    The interval is of a bootstrap that draws trials anew within each subject and class: it says how sure this one
    answer's score is, not how much another training seed would change it.
    """
    of_dataset = np.concatenate([np.repeat(t.name, N_TEST * len(t.subjects[phase])) for t in TARGETS.values()])
    of_subject = np.repeat([subject for t in TARGETS.values() for subject in t.subjects[phase]], N_TEST)
    names = {subject: t.answer_names for t in TARGETS.values() for subject in t.subjects[phase]}
    right = (answer == truth)[_drawn(truth, of_subject, np.random.default_rng(seed))]

    def part(name: str, mask: NDArray[np.bool_], classes: tuple[str, ...]) -> PartScore:
        return PartScore(
            name,
            int(mask.sum()),
            points(answer[mask], truth[mask]),
            _interval(right[:, mask], truth[mask]),
            tuple(
                Recall(
                    code,
                    classes[code],
                    int((at := mask & (truth == code)).sum()),
                    100 * float(np.mean(answer[at] == code)),
                )
                for code in range(N_CODES)
                if (mask & (truth == code)).any()
            ),
        )

    everything = part("all", np.ones(len(truth), bool), tuple(f"code {code}" for code in range(N_CODES)))
    return BeetlScore(
        everything.score,
        everything.interval,
        everything.classes,
        tuple(part(t.name, of_dataset == t.name, t.answer_names) for t in TARGETS.values()),
        tuple(part(subject, of_subject == subject, names[subject]) for subject in names),
    )


def _points(right: NDArray[np.bool_], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score rows of right and wrong ``(n_rows, n_trials)``."""
    recalls = [right[:, truth == code].mean(axis=1) for code in np.unique(truth)]
    scores: NDArray[np.float64] = 100.0 * np.mean(recalls, axis=0)
    return scores


def _interval(right: NDArray[np.bool_], truth: NDArray[np.int64]) -> tuple[float, float]:
    low, high = np.percentile(_points(right, truth), [2.5, 97.5])
    return float(low), float(high)


def _drawn(truth: NDArray[np.int64], of_subject: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw trials anew within each subject and class: their numbers ``(N_BOOTSTRAP, n_trials)``."""
    drawn = np.empty((N_BOOTSTRAP, len(truth)), np.int64)
    for subject in dict.fromkeys(of_subject.tolist()):
        for code in range(N_CODES):
            at = np.flatnonzero((of_subject == subject) & (truth == code))
            if len(at):
                drawn[:, at] = at[rng.integers(0, len(at), (N_BOOTSTRAP, len(at)))]
    return drawn
