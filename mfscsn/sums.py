"""One message: linear discriminant analysis in the common space, by way of sums that add up over sites.

A trial is its tangent vector ``x`` in the common space. Of all trials, linear discriminant analysis needs how many each
label has, ``n_l``, their sum ``s_l``, and one scatter ``X'X`` of them all. Added over sites, these are the sums of the
pooled trials, and so is the solution::

    w_l = (X'X - sum_k s_k s_k' / n_k + RIDGE I)^-1 m_l       m_l = s_l / n_l
    logit_l = N (w_l x - w_l m_l / 2)                         N = sum_k n_k

For two labels it decides as a ridge regression of +-1 does. A label that a site does not have is a row of zeros.

With ``body = "means"`` a site sends less, and each person once: for each label how far the person's mean lies from the
mean over its labels, ``d_l``, clipped to one length over all labels together. The inverse is then of the site's own
scatter, which stays there.

References
----------
Fisher 1936, Annals of Eugenics 7(2):179-188. Shrunk scatter: Friedman 1989, Journal of the American Statistical
Association 84(405):165-175.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mfscsn.bodies import mirrored_pairs
from mfscsn.branch import Branch, BranchTrials
from mfscsn.choices import MEANS, SUMS
from mfscsn.split import SplitModule, image_of

RIDGE = 1000.0  # added to the scatter of all trials and their images
SHRINKAGE = 3.0  # of "means": added to the site's own covariance
OWN_WEIGHT = 10.0  # of a subject's own trials among all
UNKNOWN = -1e6  # logit of a label that nobody has shown


class Summed(SplitModule):
    """A linear decoder of tangent vectors whose common layers are sums over trials.

    Parameters
    ----------
    body : {"sums", "means"}
    n_views : int
        Covariances that a trial has: `mfscsn.riemann.n_views`.
    electrodes : sequence of str
        Of the common space.
    branches : mapping of str to Branch
        At least one; all have the same outputs.
    common : bool
        Whether the sums may leave; else the network is of a site for itself.

    Raises
    ------
    ValueError
        When branches have other outputs than one another.
    """

    def __init__(
        self, body: str, n_views: int, electrodes: Sequence[str], branches: Mapping[str, Branch], common: bool = True
    ):
        super().__init__()
        self.body, self.n_views, self.electrodes, self.branches = body, n_views, tuple(electrodes), dict(branches)
        sizes = {branch.n_outputs for branch in branches.values()}
        if len(sizes) != 1:
            raise ValueError(f"body={body!r} needs branches of one list of labels, found {sorted(sizes)}")
        self.n_features = n_views * len(electrodes) * (len(electrodes) + 1) // 2
        self.places = {name: _image(electrodes, branch, n_views) for name, branch in branches.items()}
        (n_outputs,), n, triangle = sizes, self.n_features, self.n_features * (self.n_features + 1) // 2
        shapes = {"counts": (n_outputs,), "totals": (n_outputs, n), "scatter": (triangle,)}
        if body == MEANS:
            shapes = {"directions": (n_outputs, n)}
            self.register_buffer("within", torch.zeros(triangle, dtype=torch.float64))  # of the site's own trials
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=torch.float64), requires_grad=False))
        self.common_prefixes = tuple(shapes) if common else ()
        self.solved: tuple[object, nn.Linear] | None = None  # of which values, and what came out

    def take(self, trials: Mapping[str, BranchTrials], person_norm: float) -> None:
        """Set the common layers to what trials say, whatever they were.

        Parameters
        ----------
        trials : mapping of branch name to BranchTrials
        person_norm : float
            Of `MEANS`: the greatest length of what a person says.
        """
        parts = [sums_of(of_branch) for of_branch in trials.values()]
        counts, totals, scatter = (sum(of_all, torch.zeros(())) for of_all in zip(*parts, strict=True))
        with torch.no_grad():
            if self.body == SUMS:
                for name, value in (("counts", counts), ("totals", totals), ("scatter", _packed(scatter))):
                    self.get_parameter(name).copy_(value)
                return
            within = _within(counts, totals, scatter) / counts.sum()
            self.get_buffer("within").copy_(_packed(within))
            of_persons = [vector for of_branch in trials.values() for vector in person_vectors(of_branch)]
            said = [clipped(vector, person_norm) for vector in of_persons]
            self.get_parameter("directions").copy_(sum(said, torch.zeros_like(self.get_parameter("directions"))))

    def fit_within(self, inputs: NDArray[np.float32]) -> None:
        """Fit the site's own scatter, where `MEANS` need one, on trials without labels."""
        if self.body == MEANS:
            x = _flat(inputs)
            x = x - x.mean(0)
            self.get_buffer("within").copy_(_packed(x.T @ x / len(x)))

    def with_own(self, own: BranchTrials, times: float = OWN_WEIGHT - 1) -> "Summed":
        """Return a copy in which a subject's own trials weigh `OWN_WEIGHT` times as much as another's.

        They are in the sums once already; where they are not, `times` is `OWN_WEIGHT`.
        """
        fitted = copy.deepcopy(self)
        with torch.no_grad():
            if self.body == SUMS:
                counts, totals, scatter = sums_of(own)
                for name, value in (("counts", counts), ("totals", totals), ("scatter", _packed(scatter))):
                    fitted.get_parameter(name).add_(times * value)
            else:
                for vector in person_vectors(own):
                    fitted.get_parameter("directions").add_(times * vector)
        return fitted

    def of_labels(self, chosen: Sequence[int], branch: Branch, name: str) -> "Summed":
        """Return a network of one branch that knows some of the labels; what lies within all labels stays known."""
        own = Summed(self.body, self.n_views, self.electrodes, {name: branch})
        index = list(chosen)
        if self.body == MEANS:
            own.load_common({"directions": self.get_parameter("directions")[index]})
            own.load_private({"within": self.get_buffer("within")})
            return own
        counts, totals = self.get_parameter("counts"), self.get_parameter("totals")
        dropped = [k for k in range(len(counts)) if k not in index]
        scatter = _square(self.get_parameter("scatter"), self.n_features)
        within = _within(counts[dropped], totals[dropped], scatter)
        own.load_common({"counts": counts[index], "totals": totals[index], "scatter": _packed(within)})
        return own

    def solution(self, branch: str) -> tuple[Tensor, Tensor]:
        """Solve for a branch's weights ``(n_outputs, n_features)`` and biases ``(n_outputs,)``.

        Where electrodes and labels have a mirror image, each trial counts as its image too.
        """
        places = self.places[branch]
        if self.body == MEANS:
            directions: Tensor = self.get_parameter("directions")
            within = _square(self.get_buffer("within"), self.n_features)
            if places is not None:
                features, outputs = places
                directions = (directions + directions[outputs][:, features]) / 2
                within = (within + within[features][:, features]) / 2
            eye = torch.eye(self.n_features, dtype=torch.float64)
            weights = torch.linalg.solve(within + SHRINKAGE * eye, directions.T).T
            spread = torch.einsum("lf,fg,lg->l", weights, within, weights).mean().sqrt()
            weights = weights / spread.clamp(min=1e-12)
            return weights, torch.zeros(len(weights), dtype=torch.float64)
        counts: Tensor = self.get_parameter("counts")
        totals: Tensor = self.get_parameter("totals")
        scatter = _square(self.get_parameter("scatter"), self.n_features)
        if places is not None:
            features, outputs = places
            counts, totals = counts + counts[outputs], totals + totals[outputs][:, features]
            scatter = scatter + scatter[features][:, features]
        means = totals / counts.clamp(min=1e-9)[:, None]
        regular = _within(counts, totals, scatter) + RIDGE * torch.eye(self.n_features, dtype=torch.float64)
        weights = counts.sum() * torch.linalg.solve(regular, means.T).T
        biases = -(weights * means).sum(1) / 2
        return weights, torch.where(counts > 0, biases, biases.new_tensor(UNKNOWN))

    def head(self, branch: str) -> nn.Linear:
        """Return the decoder of a branch as a layer; it is solved anew only where the sums have changed."""
        values = [*self.parameters(), *self.buffers()]
        of = (branch, [(value.data_ptr(), value._version) for value in values])
        if self.solved is None or self.solved[0] != of:
            self.__dict__["solved"] = of, self._solved(branch)  # no module of this one: it is no layer of its state
        assert self.solved is not None
        return self.solved[1]

    def _solved(self, branch: str) -> nn.Linear:
        weights, biases = self.solution(branch)
        layer = nn.Linear(self.n_features, len(weights), dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(weights)
            layer.bias.copy_(biases)
        return layer

    def deep_features(self, x: Tensor, branch: str) -> list[Tensor]:
        """Return the logits ``(batch, n_outputs)`` alone: nothing lies between."""
        return [self.head(branch)(x.flatten(1).double())]

    def forward(self, x: Tensor, branch: str) -> Tensor:
        """Map tangent vectors ``(batch, n_views, n_pairs)`` to logits ``(batch, n_outputs)``."""
        return self.deep_features(x, branch)[-1]


def sums_of(trials: BranchTrials) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts ``(n_labels,)``, totals ``(n_labels, n_features)`` and the scatter of trials."""
    x = _flat(trials.signals)
    there = nn.functional.one_hot(torch.from_numpy(trials.labels), len(trials.names)).double()
    return there.sum(0), there.T @ x, x.T @ x


def person_vectors(trials: BranchTrials) -> list[Tensor]:
    """Return, of each person, how far its labels' means lie from their mean: ``(n_labels, n_features)``.

    A label that a person does not have is a row of zeros, and so are all of a person with one label.
    """
    vectors = []
    for person in dict.fromkeys(trials.persons.tolist()):
        chosen = trials.persons == person
        x, labels = _flat(trials.signals[chosen]), trials.labels[chosen]
        vector = torch.zeros((len(trials.names), x.shape[1]), dtype=torch.float64)
        known = sorted(set(labels.tolist()))
        means = torch.stack([x[torch.from_numpy(labels == label)].mean(0) for label in known])
        vector[known] = means - means.mean(0)
        vectors.append(vector)
    return vectors


def clipped(vector: Tensor, norm: float) -> Tensor:
    """Shorten a vector to a norm, where it is longer; one that is not finite says nothing."""
    if not torch.isfinite(vector).all():
        return torch.zeros_like(vector)
    return vector * min(1.0, norm / max(float(vector.norm()), 1e-300))


def _flat(signals: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(signals.reshape(len(signals), -1), np.float64))


def _within(counts: Tensor, totals: Tensor, scatter: Tensor) -> Tensor:
    """Take the labels' means out of a scatter."""
    means = totals / counts.clamp(min=1e-9)[:, None]
    return scatter - totals.T @ means


def _image(electrodes: Sequence[str], branch: Branch, n_views: int) -> tuple[Tensor, Tensor] | None:
    """Return the places of mirrored features and labels, as `mfscsn.split.image_of` those of electrodes."""
    image = image_of(electrodes, branch.labels)
    if image is None:
        return None
    pairs = torch.tensor(mirrored_pairs(image[0].tolist()))
    return (torch.arange(n_views)[:, None] * len(pairs) + pairs).flatten(), image[1]


def _packed(square: Tensor) -> Tensor:
    """Return the upper triangle, row by row."""
    row, column = torch.triu_indices(*square.shape)
    return square[row, column]


def _square(packed: Tensor, n: int) -> Tensor:
    square = torch.zeros((n, n), dtype=packed.dtype)
    row, column = torch.triu_indices(n, n)
    square[row, column] = packed
    square[column, row] = packed
    return square
