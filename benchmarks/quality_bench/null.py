"""Labels drawn from the original itself: no model can beat it but by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quality_bench.original import Original, predictions
from quality_bench.tasks import Array, best_factor, is_classes, mean_loss, scaled

NULL_SEEDS = 20
NULL_PIPELINES = ("bc_pca_rf", "friedman_lgb", "digits_dt", "pois_lgb", "diabetes_gb")


def drawn(original: Original, seed: int) -> Original:
    """The same pipeline; all targets are new draws from what it predicts."""
    rng = np.random.default_rng(seed + 1000)
    split, task = original.split, original.case.task
    spread = float(np.std(split.y_valid - original.valid)) if task == "numbers" else 0.0

    def draw(predicted: Array) -> Array:
        if is_classes(task):
            shares = np.cumsum(predicted.astype(np.float64), axis=1)
            points = rng.uniform(size=(len(shares), 1)) * shares[:, -1:]
            return np.asarray((points >= shares).sum(axis=1))
        if task == "rates":
            return rng.poisson(predicted).astype(np.float64)
        return predicted + spread * rng.standard_normal(len(predicted))

    split = replace(
        split,
        y_train=draw(predictions(original.proto, split.X_train, task)),
        y_valid=draw(original.valid),
        y_test=draw(original.test),
    )
    factor = best_factor(task, original.valid, split.y_valid)
    return replace(
        original,
        split=split,
        loss=mean_loss(task, original.test, split.y_test),
        factor=factor,
        scaled_loss=mean_loss(task, scaled(task, original.test, factor), split.y_test),
    )
