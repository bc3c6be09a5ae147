"""From the candidates of a tuning run to its result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import onnxtune
from onnxtune.candidates import Run
from onnxtune.export import native
from onnxtune.judging import Court, best, check_file
from onnxtune.links import operator_links
from onnxtune.preparation import Prepared
from onnxtune.problem import Problem, Split
from onnxtune.reliability import reliability
from onnxtune.result import FORMS, Candidate, Form, TuneResult
from onnxtune.tune_report import COMPANION


def outcome(
    problem: Problem,
    parts: Sequence[Split],
    trained: Sequence[str],
    court: Court,
    run: Run,
    taken: Mapping[Form, Candidate | None],
    beneath: Candidate | None,
    asked: Mapping[str, Any],
    started: float,
) -> TuneResult:
    """The result of a run, its native file checked on validation rows.

    Args:
        problem: what was tuned toward.
        parts: the rows; several where they took turns.
        trained: names of the tensors that were trained.
        court: what judged.
        run: what was found.
        taken: the candidates that are handed out, by form.
        beneath: what a companion that was taken stands beside; None for the original.
        asked: the arguments that the report repeats.
        started: when the run began, by `time.perf_counter`.

    Raises:
        OnnxTuneError: the written file differs from what was judged.
    """
    prepared, original = problem.prepared, problem.original
    first = parts[0]
    hard, soft = taken["hard"], taken["soft"]
    # A companion is judged apart, against what is taken without it.
    found = [candidate for candidate in run.candidates if candidate.name != COMPANION]
    shown = {form: taken[form] or best(found, form, accepted=False) for form in FORMS}
    verdicts = {form: one.verdict for form, one in shown.items() if one is not None}
    changed = beneath if hard is not None and hard.name == COMPANION else hard or soft
    written = native(prepared, {}) if changed is None else native(changed.prepared, changed.tensors)
    module = original
    if hard is not None:
        module = court.module(hard.prepared, "hard")
        module.load_tensors(hard.tensors)
        module.temperature = run.temperature
        file = written if changed is hard else native(hard.prepared, hard.tensors)
        check_file(module, file.proto, first.valid.table, problem.output)
    # Of validation rows the networks of a companion have learned, and the mean of folds.
    met = len(parts) > 1 or (hard is not None and hard.name == COMPANION)
    known = hard is not None and (court.test is not None or not met)
    curve = reliability(problem, court.test or first.valid, module if known else None)
    module.routing = run.routing
    replaced = dict(written.replaced)
    for node, why in {} if changed is None else logits(prepared, changed.prepared).items():
        replaced[node] = f"{replaced[node]}; {why}" if node in replaced else why
    rows = sum(part.valid.table.rows for part in parts)
    report = {
        "accepted": any(c is not None and c.verdict.accepted for c in (hard, soft)),
        "output": problem.output,
        "loss": problem.loss.name,
        **asked,
        "temperature": run.temperature,
        "rows": first.table.rows,
        "validation_rows": rows,
        "folds": len(parts),
        "epochs": len(run.history),
        "verdicts": {
            form: {**vars(verdict), "accepted": taken[form] is not None and verdict.accepted}
            for form, verdict in verdicts.items()
        },
        "candidates": [candidate.to_dict() for candidate in run.candidates],
        "taken": {form: c.name for form, c in taken.items() if c is not None},
        "size": 1.0 if changed is None else changed.size,
        "tensors": {n: list(original.learned[n].value.shape) for n in trained},
        "changed": written.changed,
        "replaced": replaced,
        "prefix": {
            "nodes": sum(role in ("prefix", "cut") for role in original.cut.roles.values()),
            "rows": first.table.rows + first.valid.table.rows,
            "seconds": first.valid.seconds,
        },
        "cache": {
            "bytes": run.cached.bytes,
            "disk_bytes": run.cached.disk_bytes,
            "seconds_saved": run.cached.seconds,
        },
        "device": str(court.device),
        "seconds": time.perf_counter() - started,
    }
    if court.test is not None:
        report["test"] = {
            "rows": court.test.table.rows,
            "original": float(court.losses(original, "hard", court.test).mean()),
            **{form: c.test for form, c in taken.items() if c is not None},
        }
    if curve is not None:
        report["reliability"] = {"rows": "validation" if court.test is None else "test", **curve}
    metadata = {
        "version": onnxtune.__version__,
        "source_sha256": prepared.source.fingerprint,
        "seed": str(court.settings.seed),
        "loss": problem.loss.name,
        "rows": str(first.table.rows),
    }
    return TuneResult(
        prepared,
        hard,
        soft if "soft" in verdicts else hard,
        verdicts,
        tuple(run.history),
        report,
        run.temperature,
        dict(original.spreads),
        module,
        metadata,
        problem.transform,
    )


def logits(before: Prepared, after: Prepared) -> dict[str, str]:
    """What became of the nodes whose votes were probabilities and are logits now, by node."""
    was, now = (operator_links(held.source.proto.graph) for held in (before, after))
    return {
        name: f"its probabilities became logits in front of a {now[name]} link"
        for name, link in was.items()
        if name in now and link != now[name]
    }
