"""Tuning on a device that is not the CPU: nothing is left behind there, and the bits are the same.

The device pretends (pretended_card.py); tests/test_card.py does the same on a real one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pretended_card import Pretended, pretended_card
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

import onnxtune
from onnxtune import runtime

rng = np.random.default_rng(0)
X = rng.normal(size=(100, 5)).astype(np.float32)
Y = X[:, 0] + 0.5 * rng.normal(size=100)
CLASSES = (Y > 0).astype(int)

ESTIMATORS: dict[str, Any] = {
    "logistic": make_pipeline(StandardScaler(), PCA(3), LogisticRegression()),
    "boosting": GradientBoostingClassifier(n_estimators=4, max_depth=3, random_state=0),
    "forest": RandomForestClassifier(4, max_depth=4, random_state=0),
    "regressor": make_pipeline(
        StandardScaler(), GradientBoostingRegressor(n_estimators=4, random_state=0)
    ),
    "vectors": SVR(),
    "neighbours": KNeighborsRegressor(3),
}


def tuned(name: str, device: str, **options: Any) -> Any:
    fitted = ESTIMATORS[name]
    classifier = hasattr(fitted, "predict_proba")
    target = CLASSES if classifier else Y
    model = onnxtune.to_onnx(fitted.fit(X, target), X)
    return onnxtune.tune(
        model, X, target, epochs=2, seed=0, threads=1, valid="last", device=device, **options
    )


def slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)


CASES = [
    slow("logistic", {}),
    ("logistic", {"clip": 1.0, "noise": 0.1, "class_weight": "balanced"}),
    ("boosting", {"routing": "soft"}),
    slow("boosting", {"routing": "straight-through", "max_size": 2}),
    ("boosting", {"routing": "leaves"}),
    slow("forest", {"routing": "soft", "companion": True}),
    ("forest", {"routing": "straight-through", "max_size": 0.5}),
    slow("regressor", {"routing": "soft", "max_size": 2}),
    slow("regressor", {"routing": "leaves", "loss": "huber"}),
    ("vectors", {}),
    slow("neighbours", {}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case)[:40])
def test_the_same_bits_as_on_the_cpu(name: str, options: dict[str, Any]) -> None:
    here = tuned(name, "cpu", **options)
    with pretended_card() as device:
        there = tuned(name, device, **options)
    assert there.report["device"] == device
    losses = [[(e.train, e.valid, e.valid_soft) for e in r.history] for r in (here, there)]
    assert losses[0] and losses[0] == losses[1]
    assert here.report["taken"] == there.report["taken"]
    for form in ("native", "hard"):
        feed = {"X": X}
        made, expected = (runtime.run(result.model(form), feed) for result in (there, here))
        for key, value in expected.items():
            np.testing.assert_array_equal(made[key], value)


def test_a_run_is_resumed_there(tmp_path: Any) -> None:
    folder = tmp_path / "run"
    with pretended_card() as device:
        first = tuned("logistic", device, checkpoint=folder)
        again = tuned("logistic", device, checkpoint=folder, resume=True)
    assert [e.valid for e in first.history] == [e.valid for e in again.history]


def test_a_tuner_learns_there() -> None:
    model = onnxtune.to_onnx(ESTIMATORS["boosting"].fit(X, CLASSES), X)
    here = onnxtune.Tuner(model, device="cpu")
    here.partial_fit(X, CLASSES)
    with pretended_card() as device:
        there = onnxtune.Tuner(model, device=device)
        there.partial_fit(X, CLASSES)
        assert {n: v.tolist() for n, v in there.tensors().items()} == {
            n: v.tolist() for n, v in here.tensors().items()
        }


def test_a_module_predicts_there() -> None:
    model = onnxtune.to_onnx(ESTIMATORS["forest"].fit(X, CLASSES), X)
    expected = onnxtune.to_torch(model).predict(X)
    with pretended_card() as device:
        module = onnxtune.to_torch(model).to(device)
        found = module.predict(X)
        for name, value in found.items():
            assert isinstance(value, Pretended)
            assert torch.equal(value.cpu(), expected[name])
        found["probabilities"].square().sum().backward()
        assert all(t.grad is not None for t in module.tensors().values() if t.requires_grad)


def test_the_pretended_card_refuses_what_a_card_does() -> None:
    with pretended_card() as device:
        there = torch.ones(3, device=device)
        here = torch.ones(3)
        assert (there + 1).device == torch.device(device)
        assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]
        assert there[torch.tensor([0])].device == torch.device(device)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[torch.zeros(1, dtype=torch.int64, device=device)],
            lambda: torch.where(there > 0, here, there),
        ):
            with pytest.raises(RuntimeError, match="on the card and on the cpu"):
                mixed()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
