"""What candidates are judged on, set up as a tuning run does, and candidates without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch

from onnxtune.judging import Court, convene
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.problem import Problem, pose, splits
from onnxtune.result import Candidate, Form
from onnxtune.settings import Settings
from onnxtune.validation import given_tables


def court_for(
    model: onnx.ModelProto, X: Any, y: Any, valid: Any, loss: Any = "auto"
) -> tuple[Problem, Court]:
    """The problem, and the court of its validation rows."""
    prepared = prepare(load(model))
    given, apart = given_tables(prepared, X, y, valid)
    problem = pose(prepared, given, None, loss, None, 0.1, torch.device("cpu"))
    (split,) = splits(problem, given, apart, valid, 0)
    settings = Settings(problem.loss, problem.output, 1, 32, {}, 1, 0)
    return problem, convene(
        problem.original, split.valid, None, settings, problem.scored, needed_z=1.64, allowed_loss=0
    )


def losing(
    court: Court, losses: Any, name: str = "it", form: Form = "hard", size: float = 1.0
) -> Candidate:
    """A candidate of which nothing is known but its losses."""
    found = np.asarray(losses, np.float64)
    nothing: Any = None
    verdict = court.verdict(found, size)
    return Candidate(name, form, size, nothing, {}, verdict, found, None, 0.1)
