"""Other pipelines, which had no part in the choice of the recipe."""

from __future__ import annotations

import numpy as np
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVR

from quality_bench.cases import Case, lightgbm_classifier
from quality_bench.pipelines import cancer, diabetes, digits, friedman, hastie
from quality_bench.tasks import Array


def wine(seed: int) -> tuple[Array, Array]:
    """Wines by their chemistry: 178 rows, 3 classes."""
    X, y = datasets.load_wine(return_X_y=True)
    return X, y


def houses(seed: int) -> tuple[Array, Array]:
    """Prices by place, income, age and rooms, with a ceiling as in a census: 4,000 rows."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(-1, 1, (4000, 2))
    centres, weights = np.array([[-0.6, 0.5], [0.4, -0.4], [0.8, 0.7]]), np.array([1.2, 1.6, 0.6])
    distance = np.linalg.norm(place[:, None] - centres, axis=2)
    income = rng.gamma(4, 1, len(place))
    age = rng.uniform(1, 52, len(place))
    rooms = rng.lognormal(1.6, 0.25, len(place))
    people = rng.lognormal(1.0, 0.3, len(place))
    price = 0.45 * income + (weights * np.exp(-4 * distance**2)).sum(axis=1)
    price += 0.01 * age + 0.3 * np.log(rooms / people) + 0.1 * income * (distance[:, 1] < 0.5)
    noisy = price * rng.lognormal(0, 0.15, len(place))
    return np.column_stack([place, income, age, rooms, people]), np.minimum(noisy, 5)


def friedman2(seed: int) -> tuple[Array, Array]:
    """Friedman's second function, an impedance: 2,000 rows."""
    X, y = datasets.make_friedman2(2000, noise=100, random_state=seed)
    return X, y


def friedman3(seed: int) -> tuple[Array, Array]:
    """Friedman's third function, a phase: 2,000 rows."""
    X, y = datasets.make_friedman3(2000, noise=0.1, random_state=seed)
    return X, y


def rare(seed: int) -> tuple[Array, Array]:
    """Two classes, one in twenty of the second: 4,000 rows."""
    X, y = datasets.make_classification(
        4000, 16, n_informative=6, n_redundant=2, weights=[0.95], flip_y=0.01, random_state=seed
    )
    return X, y


def moons(seed: int) -> tuple[Array, Array]:
    """Two half moons that overlap, among six columns of noise: 1,500 rows."""
    X, y = datasets.make_moons(1500, noise=0.35, random_state=seed)
    noise = np.random.default_rng(seed).standard_normal((len(X), 6))
    return np.hstack([X, noise]), y


def waves(seed: int) -> tuple[Array, Array]:
    """Random mixtures of two of three triangular waves, at 21 points with noise: 3,000 rows."""
    rng = np.random.default_rng(seed)
    peaks = np.maximum(6 - np.abs(np.arange(21) - np.array([[6], [14], [10]])), 0)
    y = rng.integers(0, 3, 3000)
    share = rng.uniform(size=(len(y), 1))
    return share * peaks[y] + (1 - share) * peaks[(y + 1) % 3] + rng.standard_normal((3000, 21)), y


def _scaler() -> list[StandardScaler]:
    return [StandardScaler()]


_CASES = [
    Case("wine_extra", "forest", wine, _scaler,
         lambda seed: ExtraTreesClassifier(60, max_depth=6, random_state=seed, n_jobs=1)),
    Case("houses_gb", "numbers", houses, _scaler,
         lambda seed: GradientBoostingRegressor(max_depth=4, random_state=seed)),
    Case("friedman2_gb", "numbers", friedman2, _scaler,
         lambda seed: GradientBoostingRegressor(random_state=seed)),
    Case("friedman3_gb", "numbers", friedman3, _scaler,
         lambda seed: GradientBoostingRegressor(random_state=seed)),
    Case("friedman_hist", "numbers", friedman, _scaler,
         lambda seed: HistGradientBoostingRegressor(max_leaf_nodes=15, random_state=seed)),
    Case("rare_lgb", "classes", rare, _scaler,
         lambda seed: lightgbm_classifier(n_estimators=60, num_leaves=15)),
    Case("moons_rf", "forest", moons, _scaler,
         lambda seed: RandomForestClassifier(60, max_depth=8, random_state=seed, n_jobs=1)),
    Case("hastie_extra", "forest", hastie, _scaler,
         lambda seed: ExtraTreesClassifier(50, max_depth=9, random_state=seed, n_jobs=1)),
    Case("waves_lgb", "classes", waves, _scaler,
         lambda seed: lightgbm_classifier(n_estimators=40, num_leaves=15)),
    Case("digits_logreg", "classes", digits, lambda: [StandardScaler(), PCA(30)],
         lambda seed: LogisticRegression(max_iter=1000)),
    Case("diabetes_ridge", "numbers", diabetes, lambda: [StandardScaler(), PCA(6)],
         lambda seed: Ridge()),
    Case("houses_linear_svr", "numbers", houses, _scaler,
         lambda seed: LinearSVR(max_iter=10_000, random_state=seed)),
    Case("bc_svc", "classes", cancer, _scaler,
         lambda seed: SVC(probability=True, random_state=seed)),
    Case("friedman_svr", "numbers", friedman, _scaler, lambda seed: SVR(C=10)),
]  # fmt: skip

APART = {case.name: case for case in _CASES}
