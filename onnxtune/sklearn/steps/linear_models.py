"""Linear models: coefficients and intercepts."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.sklearn.number_places import Change
from onnxtune.sklearn.steps.step import Part, Step, put, transposed

_KINDS = (
    "ARDRegression",
    "BayesianRidge",
    "ElasticNet",
    "ElasticNetCV",
    "GammaRegressor",
    "HuberRegressor",
    "Lars",
    "LarsCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "LinearDiscriminantAnalysis",
    "LinearRegression",
    "LinearSVC",
    "LinearSVR",
    "LogisticRegression",
    "LogisticRegressionCV",
    "MultiTaskElasticNet",
    "MultiTaskElasticNetCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "PLSRegression",
    "PassiveAggressiveClassifier",
    "PassiveAggressiveRegressor",
    "Perceptron",
    "PoissonRegressor",
    "QuantileRegressor",
    "Ridge",
    "RidgeCV",
    "RidgeClassifier",
    "RidgeClassifierCV",
    "SGDClassifier",
    "SGDRegressor",
    "TheilSenRegressor",
    "TweedieRegressor",
)
_OPERATORS = ("LinearClassifier", "LinearRegressor")


def _write(step: Any, part: Part) -> None:
    width = np.size(step.coef_)
    coefficients = part.first(*((operator, "coefficients") for operator in _OPERATORS))
    intercepts = part.first(*((operator, "intercepts") for operator in _OPERATORS))
    coefficients = coefficients or transposed(part.change("MatMul", "input 1"))
    intercepts = intercepts or part.change("Add", "input 1")
    step.coef_ = put(step.coef_, _own(coefficients, width))
    if intercepts is not None:
        count = max(np.size(step.coef_) // np.shape(step.coef_)[-1], 1)
        intercepts = _own(intercepts, count)
        # Without an intercept a model holds the number 0 for all.
        held = step.intercept_ if np.size(step.intercept_) == count else np.zeros(count)
        step.intercept_ = put(held, intercepts)
    if hasattr(step, "_x_mean"):  # of PLSRegression
        step._x_mean = put(step._x_mean, part.change("Sub", "input 1"))


def _own(change: Change | None, count: int) -> Change | None:
    """Of two opposite rows for two classes the second, which is the step's."""
    if change is None or change.before.size != 2 * count:
        return change
    return Change(change.before.ravel()[count:], change.after.ravel()[count:])


STEPS = (Step("sklearn", _KINDS, _write),)
