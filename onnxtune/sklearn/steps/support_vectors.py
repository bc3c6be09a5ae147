"""Support vector machines with a kernel."""

from __future__ import annotations

from typing import Any

from onnxtune.sklearn.steps.step import Part, Step, put

_OPERATORS = ("SVMClassifier", "SVMRegressor")


def _write(step: Any, part: Part) -> None:
    if step._sparse:  # held as sparse matrices; the second export tells
        return

    def changed(role: str) -> Any:
        return part.first(*((operator, role) for operator in _OPERATORS))

    step.support_vectors_ = put(step.support_vectors_, changed("support_vectors"))
    # libsvm's own numbers, which predictions are made of; those of two classes are shown negated.
    sign = -1.0 if len(getattr(step, "classes_", ())) == 2 else 1.0
    step._dual_coef_ = put(step._dual_coef_, changed("coefficients"))
    step._intercept_ = put(step._intercept_, changed("rho"))
    step.dual_coef_, step.intercept_ = sign * step._dual_coef_, sign * step._intercept_
    kernel = changed("kernel_params")
    if kernel is not None and kernel.moved[0]:
        step._gamma = float(kernel.after[0])
    for name, role in (("_probA", "prob_a"), ("_probB", "prob_b")):
        if changed(role) is not None:
            setattr(step, name, put(getattr(step, name), changed(role)))


STEPS = (Step("sklearn", ("NuSVC", "NuSVR", "OneClassSVM", "SVC", "SVR"), _write),)
