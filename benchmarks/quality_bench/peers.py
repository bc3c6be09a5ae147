"""Other ways to a better model from the same rows, scored like the tuned one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

from quality_bench import network
from quality_bench.cases import lightgbm_classifier, lightgbm_regressor
from quality_bench.original import Original, estimated, predictions
from quality_bench.tasks import Array, is_classes, mean_loss, paired_z, row_losses

_LONGER, _CONFIGURATIONS = 5, 12
_MOST_ROUNDS, _ROUNDS_WITHOUT_GAIN = 2000, 50
_NEEDED_Z = 1.0

# Predictions for the test rows, or None where the peer does not apply, and a note.
Found = tuple[Array | None, str]


def ratios(original: Original, seed: int, extra: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For every peer its test loss over the original's and its seconds, or why it is left out."""
    peers: dict[str, Callable[[], Found]] = {
        "refit": lambda: _refit(original),
        "more rounds": lambda: _more_rounds(original),
        "random start": lambda: _random_start(original, extra),
        "network": lambda: _network(original, seed),
        "search": lambda: _search(original, seed),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, peer in peers.items():
        started = time.perf_counter()
        try:
            predicted, note = peer()
        except Exception as error:  # one peer must not end the others
            predicted, note = None, f"{type(error).__name__}: {' '.join(str(error).split())}"
        record: dict[str, Any] = {"seconds": time.perf_counter() - started}
        if predicted is not None:
            loss = mean_loss(original.case.task, predicted, original.split.y_test)
            record |= {"loss": loss, "ratio": loss / original.loss}
        if note:
            record["note"] = note
        found[name] = record
    return found


def _refit(original: Original) -> Found:
    """The same pipeline, fitted on the validation rows as well."""
    split = original.split
    if isinstance(split.X_train, pd.DataFrame):
        X = pd.concat([split.X_train, split.X_valid])
    else:
        X = np.concatenate([split.X_train, split.X_valid])
    pipeline = clone(original.pipeline).fit(X, np.concatenate([split.y_train, split.y_valid]))
    return estimated(pipeline, split.X_test, original.case.task), ""


def _more_rounds(original: Original) -> Found:
    """Boosting that goes on for up to five times the rounds, as far as validation likes it."""
    split, task = original.split, original.case.task
    fitted = original.pipeline[-1]
    kind = type(fitted)
    boosted = (GradientBoostingClassifier, GradientBoostingRegressor)
    if not (kind.__name__.startswith("LGBM") or issubclass(kind, boosted)):
        return None, ""
    rounds = fitted.n_estimators
    # The first rounds are those of the original: both libraries repeat themselves.
    longer = clone(fitted).set_params(n_estimators=_LONGER * rounds)
    train, valid, test = (_entering(original, X) for X in _parts(original))
    longer.fit(train, split.y_train)
    if issubclass(kind, boosted):
        staged = "staged_predict_proba" if is_classes(task) else "staged_predict"
        losses = [mean_loss(task, p, split.y_valid) for p in getattr(longer, staged)(valid)]
        best = rounds + int(np.argmin(losses[rounds - 1 :]))
        *_, predicted = (
            p for p, _ in zip(getattr(longer, staged)(test), range(best), strict=False)
        )
        return predicted, ""

    def after(X: Array, count: int) -> Array:
        predict = longer.predict_proba if is_classes(task) else longer.predict
        return np.asarray(predict(X, num_iteration=count))

    counts = range(rounds, _LONGER * rounds + 1, max(1, rounds // 20))
    losses = [mean_loss(task, after(valid, count), split.y_valid) for count in counts]
    return after(test, counts[int(np.argmin(losses))]), ""


def _random_start(original: Original, extra: dict[str, Any]) -> Found:
    """The same structure, tuned from random numbers."""
    from quality_bench.runs import tune

    try:
        result, _ = tune(original, **extra, init="random")
    except TypeError as error:
        if "init" not in str(error):
            raise
        return None, "this onnxtune.tune knows no init"
    return predictions(result.model("native"), original.split.X_test, original.case.task), ""


def _network(original: Original, seed: int) -> Found:
    """A network from nothing, used where it beats the original on the validation rows."""
    split, task = original.split, original.case.task
    train, valid, test = (_entering(original, X) for X in _parts(original))
    classes = original.test.shape[1] if is_classes(task) else 1
    predict = network.train(task, train, split.y_train, valid, split.y_valid, classes, seed)
    losses = row_losses(task, predict(valid), split.y_valid)
    before = row_losses(task, original.valid, split.y_valid)
    used = paired_z(losses, before) > _NEEDED_Z
    return (predict(test) if used else original.test), ""


def _search(original: Original, seed: int) -> Found:
    """The best of some LightGBM models with random settings, on the validation rows."""
    import lightgbm

    split, task = original.split, original.case.task
    train, valid, test = (_entering(original, X) for X in _parts(original))
    rng = np.random.default_rng(seed)
    make = lightgbm_classifier if is_classes(task) else lightgbm_regressor
    best, kept = float("inf"), original.test
    for _ in range(_CONFIGURATIONS):
        model = make(
            n_estimators=_MOST_ROUNDS,
            learning_rate=float(np.exp(rng.uniform(np.log(0.02), np.log(0.2)))),
            num_leaves=int(rng.choice([4, 8, 15, 31, 63])),
            min_child_samples=int(rng.choice([5, 10, 20, 50])),
            colsample_bytree=float(rng.uniform(0.4, 1)),
            subsample=float(rng.uniform(0.5, 1)),
            subsample_freq=1,
            reg_lambda=float(np.exp(rng.uniform(np.log(1e-2), np.log(10)))),
            random_state=seed,
            **({"objective": "poisson"} if task == "rates" else {}),
        )
        model.fit(
            train,
            split.y_train,
            eval_set=[(valid, split.y_valid)],
            callbacks=[lightgbm.early_stopping(_ROUNDS_WITHOUT_GAIN, verbose=False)],
        )
        loss = mean_loss(task, estimated(model, valid, task), split.y_valid)
        if loss < best:
            best, kept = loss, estimated(model, test, task)
    return kept, ""


def _parts(original: Original) -> tuple[Any, Any, Any]:
    split = original.split
    return split.X_train, split.X_valid, split.X_test


def _entering(original: Original, X: Any) -> Array:
    """The rows as they enter the estimator, after the preprocessing."""
    return np.asarray(original.pipeline[:-1].transform(X), dtype=np.float32)
