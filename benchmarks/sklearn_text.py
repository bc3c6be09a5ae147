"""Texts told apart by their letters: a grid search over tuned pipelines, on two workers and on one.

    python benchmarks/sklearn_text.py [--rows 1200] [--folds 3]

The texts are words of three made-up languages, whose letters follow each other in slightly other
ways. The pipeline is character n-grams, TF-IDF and logistic regression. Prints what the search
found, what the tuned pipeline brings on other texts, and the seconds of both searches; writes
benchmarks/results/sklearn_text.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from facts import environment, facts
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from onnxtune import output
from onnxtune.model import write
from onnxtune.sklearn import TunedClassifier

RESULTS = Path(__file__).parent / "results" / "sklearn_text.json"
PACKAGES = ("joblib", "numpy", "onnx", "scikit-learn", "skl2onnx", "torch")
LANGUAGES = ("north", "east", "south")
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
OWN_SHARE = 0.15  # of what follows a letter, the rest is common to all languages


def texts(rows: int, seed: int) -> tuple[list[str], Any]:
    """So many texts of five words each, and their languages."""
    shapes = np.random.default_rng(7).dirichlet(np.full(26, 0.3), size=(4, 26))
    follows = (1 - OWN_SHARE) * shapes[0] + OWN_SHARE * shapes[1:]
    rng = np.random.default_rng(seed)
    languages = rng.integers(0, len(LANGUAGES), rows)
    # [rows x 5 words, 8 letters], each drawn by the one before.
    kinds = np.repeat(languages, 5)
    letters = np.empty((len(kinds), 8), np.int64)
    letters[:, 0] = rng.integers(0, 26, len(kinds))
    for place in range(1, 8):
        chances = np.cumsum(follows[kinds, letters[:, place - 1]], axis=1)
        drawn = (chances < rng.random((len(kinds), 1))).sum(axis=1)
        letters[:, place] = np.minimum(drawn, 25)
    lengths = rng.integers(3, 9, len(kinds))
    words = ["".join(LETTERS[row[:size]]) for row, size in zip(letters, lengths, strict=True)]
    found = [" ".join(words[at : at + 5]) for at in range(0, len(words), 5)]
    return found, np.array(LANGUAGES)[languages]


def main() -> int:
    """Search twice, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--folds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    X, y = texts(arguments.rows, 0)
    X_test, y_test = texts(2000, 1)
    pipeline = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 2), lowercase=False), LogisticRegression()
    )
    tuned = TunedClassifier(pipeline, threads=1, random_state=0)
    grid = {"estimator__logisticregression__C": [0.3, 3.0], "lr": [0.003, 0.01]}
    seconds: dict[int, float] = {}
    for jobs in (1, 2):
        # Workers that are there already: what is timed is the search.
        joblib.Parallel(jobs)(joblib.delayed(clone(tuned).fit)(X[:200], y[:200]) for _ in range(2))
        start = time.perf_counter()
        search = GridSearchCV(
            tuned, grid, cv=arguments.folds, scoring="neg_log_loss", n_jobs=jobs
        ).fit(X, y)
        seconds[jobs] = time.perf_counter() - start
    plain = GridSearchCV(
        pipeline,
        {"logisticregression__C": [0.1, 0.3, 1.0, 3.0, 10.0]},
        cv=arguments.folds,
        scoring="neg_log_loss",
    ).fit(X, y)
    losses = {
        name: float(log_loss(y_test, found.predict_proba(X_test), labels=sorted(LANGUAGES)))
        for name, found in (("plain", plain), ("tuned", search))
    }
    rights = {
        name: float(np.mean(found.predict(X_test) == y_test))
        for name, found in (("plain", plain), ("tuned", search))
    }
    rows = [[name, losses[name], rights[name]] for name in losses]
    print(output.table(["searched", "log loss", "accuracy"], rows, "lrr"))
    print(f"best: {search.best_params_}")
    print(
        f"{len(search.cv_results_['params']) * arguments.folds} fits: one worker "
        f"{seconds[1]:.1f} s, two {seconds[2]:.1f} s, {seconds[1] / seconds[2]:.2f} times as fast"
    )
    head = facts(" ".join(["python", *sys.argv])) | environment(PACKAGES)
    figures = {"log_loss": losses, "accuracy": rights, "best": search.best_params_}
    timed = {"seconds": {str(jobs): value for jobs, value in seconds.items()}}
    write(RESULTS, output.as_json(head | figures | timed).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
