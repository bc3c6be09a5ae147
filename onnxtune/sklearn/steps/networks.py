"""Multilayer perceptrons: weights and biases, layer by layer."""

from __future__ import annotations

from typing import Any

from onnxtune.sklearn.steps.step import Part, Step, put


def _write(step: Any, part: Part) -> None:
    for layer in range(len(step.coefs_)):
        weights = part.change("MatMul", "input 1", layer)
        step.coefs_[layer] = put(step.coefs_[layer], weights)
        biases = part.change("Add", "input 1", layer)
        step.intercepts_[layer] = put(step.intercepts_[layer], biases)


STEPS = (Step("sklearn", ("MLPClassifier", "MLPRegressor"), _write),)
