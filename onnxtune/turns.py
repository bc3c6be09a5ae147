"""The parts of the rows in turn, each judged on what it was not trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnxtune.candidates import Run, Task, TuneRouting, candidates
from onnxtune.fold_mean import FoldMean
from onnxtune.judging import Court, best, pooled
from onnxtune.problem import Split
from onnxtune.result import FORMS, Candidate, Form
from rewrites.core.rewrite import Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What the turns brought.

    Attributes:
        first: what judged the first of them.
        court: what judges all of their validation rows.
        run: the first one, its candidates judged on all.
        alone: the candidates to hand out by form, as the first of the turns made them.
        taken: the same, of several turns their mean.
        turns: how many of them were done.
    """

    first: Court
    court: Court
    run: Run
    alone: dict[Form, Candidate | None]
    taken: dict[Form, Candidate | None]
    turns: int


def in_turns(
    task_of: Callable[[int, Split], Task],
    parts: Sequence[Split],
    routing: TuneRouting,
    max_size: float,
) -> Found:
    """Tune on every part of the rows, and choose what is handed out.

    Where somebody asks to stop, the parts that are done count, and of the first what it has.

    Args:
        task_of: what to tune, by the number of the part from 1 and the part.
        parts: of the rows.
        routing: how trees pass rows on.
        max_size: trees, over those of the original.
    """
    courts: list[Court] = []
    runs: list[Run] = []
    losses: list[dict[str, Array]] = []
    random = False
    mean = FoldMean()
    for number, split in enumerate(parts, start=1):
        task = task_of(number, split)
        random, stop = task.random, task.court.settings.stop
        if number > 1 and stop.asked:
            break
        run = candidates(task, routing, max_size)
        if number > 1 and run.cut:
            break
        # Of all folds but the first the models are let go, which may be large.
        losses.append({candidate.name: candidate.losses for candidate in run.candidates})
        # Folds that start from other numbers, or keep other trees, have no mean to speak of.
        if not random and max_size >= 1 and len(parts) > 1:
            mean.add(task.court, run.candidates)
        runs.append(run if not runs else replace(run, candidates=[]))
        courts.append(replace(task.court, whole=run.whole))
    if all(run.known_by_heart for run in runs):
        _log.warning(
            "The model gets every validation row right. If it was fitted on some of the rows, give "
            "others: tuned on what it has seen, it becomes too sure of itself."
        )
    court, found = pooled(courts, runs[0].candidates, losses[1:])
    alone = {form: best(found, form, accepted=not random) for form in FORMS}
    taken = {f: None if c is None else mean.judged(courts[0], c) for f, c in alone.items()}
    first = replace(runs[0], candidates=found)
    return Found(courts[0], court, first, alone, taken, len(runs))
