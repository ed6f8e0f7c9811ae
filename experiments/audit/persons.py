"""Audit: is a person, or a site, in the sum of one message? The attacker has recordings of theirs, and the sum.

Half of the persons, or of the sites, are summed; the others are not. For each, the attacker makes the vector that it
would have said (`mfscsn.sums.person_vectors`) and looks how much of it lies in what was released: with nothing else
known; or, the strongest there is, with all others' vectors taken off the sum before.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

N_DRAWS = 20  # of who is in
Vectors = NDArray[np.float64]  # a row a person


def seen_in_sum(
    persons: Vectors, own: Vectors, noise: float, rng: np.random.Generator, others_known: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw who is in, release the sum, and attack each one.

    Parameters
    ----------
    persons : array, shape (n, n_numbers)
        What each would say.
    own : array, shape (n, n_numbers)
        What the attacker takes it for: of the same trials, or of another time.
    noise : float
        Deviation of what is added to each number of the sum.
    rng : numpy.random.Generator
    others_known : bool

    Returns
    -------
    array, array
        For each of all draws a score, and whether it was in.
    """
    scores, truth = [], []
    for _ in range(N_DRAWS):
        there = rng.permutation(len(persons)) < len(persons) // 2
        released = persons[there].sum(0) + noise * rng.standard_normal(persons.shape[1])
        for k, vector in enumerate(own):
            rest = persons[there].sum(0) - (persons[k] if there[k] else 0) if others_known else 0
            scores.append(float((released - rest) @ vector / (np.linalg.norm(vector) + 1e-12)))
        truth.append(there)
    return np.array(scores), np.concatenate(truth)


def sums_of_sites(persons: Mapping[str, Sequence[Vectors]]) -> Vectors:
    """Add the vectors of each site's persons."""
    return np.stack([np.sum(vectors, axis=0) for vectors in persons.values()])
