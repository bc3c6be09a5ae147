"""Weights of words in texts."""

from __future__ import annotations

from typing import Any

from onnxtune.sklearn.steps.step import Part, Step, put


def _write(step: Any, part: Part) -> None:
    weights = getattr(step, "_tfidf", step)  # which a vectorizer has in it
    if weights.use_idf:
        weights.idf_ = put(weights.idf_, part.change("Mul", "input 1"))


STEPS = (Step("sklearn", ("TfidfTransformer", "TfidfVectorizer"), _write),)
