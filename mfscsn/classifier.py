"""`MFSCSNClassifier`: one site's network as a scikit-learn classifier, for MOABB, cross-validation and notebooks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y
from threadpoolctl import threadpool_limits

from mfscsn.branch import Branch, BranchTrials
from mfscsn.choices import COMMON_SPACE, MEANS, SUMS
from mfscsn.common_space import ELECTRODES
from mfscsn.device import Device, found_device
from mfscsn.exported import SITE, CommonLayers, read_exported
from mfscsn.extractors import EXTRACTORS
from mfscsn.heads import start_by_label
from mfscsn.inputs import Alignment, check_alignment
from mfscsn.network import Architecture
from mfscsn.settings import Settings
from mfscsn.sums import OWN_WEIGHT, Summed
from mfscsn.training import derive_seed, predict, rounds_of, train_round

VOLTS = 1e-2  # deviation of trials, below which they are no EEG in microvolts


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: results repeat, and the jobs of a cross-validation do not wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


class MFSCSNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A separate-common-separate network of one site.

    Trials come band-passed and cut, as MOABB's paradigms and MNE's epochs give them; the network aligns them, its
    reference fitted in `fit`. Without `common` it is the site unshared. With it, training begins with the common layers
    of a finished federation.

    Parameters
    ----------
    sfreq : float
        Rate of the trials in Hz.
    channels : sequence of str, optional
        Names of the trials' channels, in their order, in the extended 10-20 system: the common space needs them.
    extractor : {"common-space", "riemann", "shallow", "shallow-group"}, optional
        When left out "common-space" where channels are named, else "riemann"; `common` brings its own.
    alignment : str, optional
        As in `mfscsn.inputs.Alignment`; when left out "recentred" with "common-space" and "riemann", "euclidean" with
        the others.
        "adaptive" takes trials that `predict` is given for later ones in time order, which cross-validation does not
        give.
    common : path or mfscsn.CommonLayers, optional
        What `mfscsn export` wrote, or what `federation.common_layers.read_common` returns of a run's folder.
    train_common : bool
        Whether the common layers are trained further, or stay as they came.
    epochs, batch_size, lr
        Of training: passes over the trials, trials a step, AdamW's learning rate. When left out 200, 32 and 8e-3, which
        falls to zero, in the common space, and else 100, 64 and 1e-3.
    weight_decay : float
        AdamW's.
    random_state : int
        Of weights, batches and dropout: the same one gives the same network.
    device : {"cpu", "cuda", "auto"}
        Where it is trained; "auto" is a graphics card where torch sees one. Predictions are made on the processor.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
    network_ : mfscsn.network.SplitModule
        A torch module of one branch, "site".
    n_features_in_ : int
        Channels.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from mfscsn import MFSCSNClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((40, 8, 384)), np.repeat(["left", "right"], 20)
    >>> len(cross_val_score(MFSCSNClassifier(sfreq=128, epochs=2), X, y))
    5
    """

    def __init__(
        self,
        sfreq: float = 128.0,
        *,
        channels: Sequence[str] | None = None,
        extractor: str | None = None,
        alignment: str | None = None,
        common: str | Path | CommonLayers | None = None,
        train_common: bool = True,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float = 0.01,
        random_state: int = 0,
        device: Device = "cpu",
    ):
        self.sfreq = sfreq
        self.channels = channels
        self.extractor = extractor
        self.alignment = alignment
        self.common = common
        self.train_common = train_common
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on trials ``(n_trials, n_chans, n_times)``, in microvolts, and their labels ``(n_trials,)``.

        Raises
        ------
        ValueError
            For trials of another form or with one class only, settings that do not fit one another, or common layers
            of another rate or shape.
        """
        signals, labels = check_X_y(X, y, allow_nd=True, dtype=np.float64)
        self._check_form(signals)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has the one class {self.classes_.tolist()[0]!r}; at least two are needed")
        self.n_features_in_, self.n_times_ = signals.shape[1:]
        common = read_exported(self.common) if isinstance(self.common, str | Path) else self.common
        architecture, alignment = self._build_by(common, signals.shape[2])
        labels = tuple(map(str, self.classes_))
        self.network_ = architecture.build(
            {SITE: Branch(signals.shape[1], len(labels), labels)}, derive_seed(self.random_state, SITE)
        )
        in_space = architecture.extractor == COMMON_SPACE
        if in_space:
            start_by_label(self.network_.head(SITE), labels, self.random_state if common is None else common.seed)
            self.network_.anchor_heads()
        if common is not None and architecture.body not in (SUMS, MEANS):
            self.network_.load_common(common.layers)
        with _one_thread():
            self.reference_ = alignment.fit(signals, self.channels or ())
            inputs = self.reference_.inputs(signals, follow=False)
            if common is not None and architecture.body in (SUMS, MEANS):
                own = BranchTrials(inputs, codes.astype(np.int64), labels, np.full(len(codes), SITE))
                summed = common.network_for(labels, inputs)
                assert isinstance(summed, Summed)
                self.network_ = summed.with_own(own, OWN_WEIGHT)
                return self
            self._train({SITE: BranchTrials(inputs, codes.astype(np.int64), labels)}, common is not None, in_space)
        return self

    def _train(self, trials: dict[str, BranchTrials], continued: bool, in_space: bool) -> None:
        epochs, batch_size, lr = (200, 32, 8e-3) if in_space else (100, 64, 1e-3)
        epochs = epochs if self.epochs is None else self.epochs
        frozen = continued and not self.train_common
        rounds, passes = (epochs, 1) if in_space else (1, epochs)  # a round is what the schedule's steps are
        settings = Settings(
            rounds=rounds,
            local_epochs=0 if frozen else passes,
            private_first=passes if frozen else 0,
            batch_size=batch_size if self.batch_size is None else self.batch_size,
            lr=lr if self.lr is None else self.lr,
            schedule="cosine" if in_space else "constant",
            weight_decay=self.weight_decay,
        )
        state, device = None, found_device(self.device)
        for number, now in rounds_of(settings):
            seed = derive_seed(self.random_state, SITE, number)
            _, state = train_round(self.network_, trials, now, seed=seed, optimiser_state=state, device=device)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class, in the order of `classes_`, for trials as `fit` takes them."""
        check_is_fitted(self, "network_")
        signals = check_array(X, allow_nd=True, dtype=np.float64)
        self._check_form(signals)
        if signals.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {signals.shape[1]} channels, but the network was fitted on {self.n_features_in_}")
        if signals.shape[2] != self.n_times_:
            raise ValueError(f"X has {signals.shape[2]} samples a trial, but the network was fitted on {self.n_times_}")
        with _one_thread():
            return predict(self.network_, self.reference_.inputs(signals, follow=True), SITE)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class of trials as `fit` takes them."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    def _check_form(self, X: NDArray[np.float64]) -> None:
        if X.ndim != 3:
            raise ValueError(f"X has shape {X.shape}, expected (n_trials, n_chans, n_times)")
        if 0 < (spread := float(np.median(X.std(axis=2)))) < VOLTS:
            raise ValueError(f"X deviates by {spread:.2g}, as EEG in volts does; microvolts are expected: pass 1e6 * X")

    def _build_by(self, common: CommonLayers | None, n_times: int) -> tuple[Architecture, Alignment]:
        """Return what the network is built by: the parameters, or what the common layers came from."""
        extractor = self.extractor or ("riemann" if self.channels is None else COMMON_SPACE)
        if extractor not in (COMMON_SPACE, *EXTRACTORS):
            raise ValueError(f"no extractor {extractor!r}; there are {', '.join((COMMON_SPACE, *EXTRACTORS))}")
        electrodes = ELECTRODES["motor21"] if extractor == COMMON_SPACE else ()
        architecture = Architecture(n_times, self.sfreq, extractor, (0.0, self.sfreq / 2), electrodes=electrodes)
        kind, shrinkage, tangent = self.alignment, 0.0, False
        if common is not None:
            if common.architecture.sfreq != self.sfreq:
                raise ValueError(
                    f"sfreq is {self.sfreq:g} Hz, the common layers of {common.name} are of"
                    f" {common.architecture.sfreq:g} Hz; resample the trials"
                )
            architecture = replace(common.architecture, n_times=n_times)
            shrinkage, tangent = common.alignment.shrinkage, common.alignment.tangent
            if architecture.extractor in EXTRACTORS and architecture.extractor != "riemann":
                kind = kind or common.alignment.kind
        if architecture.extractor == COMMON_SPACE and len(self.channels or ()) != self.n_features_in_:
            raise ValueError(
                f"the common space needs the names of the {self.n_features_in_} channels: channels=[...], found"
                f" {len(self.channels or ())}"
            )
        kind = kind or ("recentred" if architecture.extractor in (COMMON_SPACE, "riemann") else "euclidean")
        check_alignment(kind, architecture.extractor)
        alignment = Alignment(
            kind, self.sfreq, shrinkage, architecture.band, electrodes=architecture.electrodes, tangent=tangent
        )
        return architecture, alignment
