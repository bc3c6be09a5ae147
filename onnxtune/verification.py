"""Whether two models give the same answers: worst differences, labels, and metrics on a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxtune import classes, model, runtime
from onnxtune.agreement import OutputVerdict, Values, as_values, compare
from onnxtune.columns import check_batch
from onnxtune.counterparts import feed_for, output_names
from onnxtune.errors import ArgumentError, DataError
from onnxtune.flow import Array
from onnxtune.metrics import absolute_error, log_loss, paired, squared_error, zero_one_error
from onnxtune.model import Model


@dataclass(frozen=True)
class Metric:
    """One figure of both models on the same rows.

    `difference` is the candidate's less the original's; `standard_error` that of the difference,
    from its spread over the rows (`metrics.paired`), and `z` their quotient.
    """

    name: str
    output: str
    original: float
    candidate: float
    difference: float
    standard_error: float
    z: float


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    `agrees` is true where every output of the original is in the candidate within the tolerance,
    for one row and none as well; `problems` holds what is wrong with the whole candidate.
    """

    agrees: bool
    rows: int
    outputs: tuple[OutputVerdict, ...]
    metrics: tuple[Metric, ...] | None = None
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists, numbers and text."""
        plain = dataclasses.asdict(self)
        plain["outputs"] = [
            fields | {"agrees": output.agrees}
            for fields, output in zip(plain["outputs"], self.outputs, strict=True)
        ]
        plain["problems"] = list(plain["problems"])
        plain["metrics"] = None if self.metrics is None else list(plain["metrics"])
        return plain

    def text(self) -> str:
        """Tables for a reader, the answer last."""
        from onnxtune.output import table

        parts = []
        if self.outputs:
            headers = ["output", "kind", "worst |d|", "relative", "at row", "rows past tolerance"]
            cells = [_cells(output) for output in self.outputs]
            parts.append(table([*headers, "labels equal", "near ties"], cells))
        lines = [f"{o.name}: {line}" for o in self.outputs for line in (o.problem, o.note) if line]
        if lines:
            parts.append("\n".join(lines))
        if self.metrics:
            headers = ["metric", "output", "original", "candidate", "difference", "std. error", "z"]
            figures = [tuple(dataclasses.asdict(metric).values()) for metric in self.metrics]
            parts.append(table(headers, figures))
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        answer = f"agree on {rows}" if self.agrees else f"do not agree ({rows} compared)"
        parts.append("\n".join([*self.problems, f"The models {answer}."]))
        return "\n\n".join(parts)


def _cells(output: OutputVerdict) -> list[Any]:
    share = output.label_agreement
    return [
        output.name,
        output.kind,
        output.worst_absolute,
        output.worst_relative,
        output.worst_row,
        output.rows_past,
        None if share is None else f"{share:.4%}",
        output.ties,
    ]


def verify(
    original: Any,
    candidate: Any,
    data: Any = None,
    target: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    rows: int = 1000,
    seed: int = 0,
    threads: int | None = 1,
    sample: Any = None,
) -> Verdict:
    """Run two models on the same rows and compare their outputs by name.

    A number is within the tolerance if `|d| <= atol + rtol * max(|y|, rms y)`, y being the
    original's output; NaN equals NaN, and an infinity itself. Labels must be equal wherever the
    margin of the original's scores is larger than the tolerance. A ZipMap may stand against the
    tensor of its values. Outputs that only the candidate has are ignored. One row and no rows
    must give outputs of the same shapes, unless the original itself fails on them.

    Inputs are matched by name, also by the one that exporters make of it (`Age (years)` and
    `Age__years_`); a model that takes a matrix may stand against one that takes columns. Where one
    of the two is an estimator and no output has the same name, their order tells.

    Args:
        original: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        candidate: another.
        data: rows for both, as `onnxtune.data.load` takes them; None samples them from the
            original's graph (`onnxtune.sampling.sample`).
        target: the column with the right answers, or an array of them; brings the metrics.
        rtol: relative tolerance.
        atol: absolute tolerance.
        rows: how many rows to sample where there are no data.
        seed: of the sampling.
        threads: for onnxruntime, whose last bits change with their number; None leaves the
            choice to it.
        sample: rows like those an estimator was fitted on; None takes the data.

    Raises:
        ModelError: one of the models cannot be read, or onnxruntime refuses it.
        DataError: the data or the target do not fit, or the original cannot run the data.
        ArgumentError: a target without data, a negative tolerance, or no rows.
        UnsupportedError: no data, and an input of which no rows can be sampled.
    """
    if data is None and target is not None:
        raise ArgumentError("A target needs the data that it belongs to; give both.")
    if not (rtol >= 0 and atol >= 0):
        raise ArgumentError(f"The tolerances are rtol={rtol} and atol={atol}; give 0 or more.")
    if data is None and rows < 1:
        raise ArgumentError(f"rows is {rows}; give 1 or more.")
    given = data if sample is None else sample
    first, second = model.load(original, given), model.load(candidate, given)
    # Both are judged by onnxruntime before anything is read off their graphs.
    runners = [
        runtime.session(m.content, threads=threads, origin=m.origin) for m in (first, second)
    ]
    feed, answers = _feed(first, data, target, rows, seed)
    count = max((len(array) for array in feed.values()), default=0)
    inputs = [runtime.input_types(m.proto) for m in (first, second)]
    expected = _outputs(first, runners[0], feed, data is None)
    loose = any(model.is_estimator(held) for held in (original, candidate))
    try:
        taken = feed_for(inputs[1], inputs[0], feed, data, target)
        if isinstance(taken, str):
            problem = f"The candidate has an input '{taken}' that the original has not."
            return Verdict(False, count, (), problems=(problem,))
        check_batch(inputs[1], taken, second.origin)
        results = as_values(second.proto, runtime.run(runners[1], taken))
    except DataError as error:
        return Verdict(False, count, (), problems=(f"The candidate fails: {error}",))
    names = output_names(list(expected), list(results), loose)
    found = {names[name]: held for name, held in results.items()}
    outputs = compare(first.proto, expected, found, count, rtol, atol)
    problems = _small_batches((first, second), runners, (feed, taken), names)
    metrics = None if answers is None else _metrics(first, expected, found, answers)
    agrees = all(output.agrees for output in outputs) and not problems
    return Verdict(agrees, count, outputs, metrics, problems)


def _feed(
    first: Model, data: Any, target: Any, rows: int, seed: int
) -> tuple[dict[str, Array], Array | None]:
    if data is None:
        from onnxtune.sampling import sample

        return sample(first.proto, rows, seed), None
    from onnxtune.data import load

    inputs = runtime.input_types(first.proto)
    # onnxruntime knows which inputs go together; a target has to have an answer for each row.
    table = load(data, inputs, target, same_rows=target is not None)
    check_batch(inputs, table.feed, first.origin)
    return table.feed, table.target


def _outputs(
    first: Model, session: Any, feed: dict[str, Array], sampled: bool
) -> dict[str, Values]:
    try:
        return as_values(first.proto, runtime.run(session, feed))
    except DataError as error:
        if not sampled:
            raise
        raise DataError(
            f"{first.origin}: cannot run rows sampled from its graph; give data ({error})"
        ) from error


def _small_batches(
    models: tuple[Model, Model],
    runners: list[Any],
    feeds: tuple[dict[str, Array], dict[str, Array]],
    names: dict[str, str],
) -> tuple[str, ...]:
    """What goes wrong in the candidate alone with one row, or with none."""
    inputs = runtime.input_types(models[0].proto) + runtime.input_types(models[1].proto)
    if any(value.shape and value.shape[0] is not None for value in inputs):
        return ()
    operators = {node.op_type for held in models for node in held.proto.graph.node}
    found = []
    for rows, name in ((1, "One row"), (0, "No rows")):
        if rows == 0 and "FeatureVectorizer" in operators:
            continue  # onnxruntime 1.31 ends the process
        parts = [{key: array[:rows] for key, array in feed.items()} for feed in feeds]
        try:
            expected = as_values(models[0].proto, runtime.run(runners[0], parts[0]))
        except DataError:
            continue
        try:
            held = as_values(models[1].proto, runtime.run(runners[1], parts[1]))
        except DataError as error:
            found.append(f"{name}: the candidate fails ({error}).")
            continue
        results = {names[key]: values for key, values in held.items()}
        found += [
            f"{name}: output '{key}' has shape {list(held.shape)} in the original, "
            f"{list(results[key].shape)} in the candidate."
            for key, held in expected.items()
            if key in results and results[key].shape != held.shape
        ]
    return tuple(found)


def _metrics(
    first: Model, expected: Mapping[str, Values], found: Mapping[str, Values], target: Array
) -> tuple[Metric, ...]:
    labels = classes.class_labels(first.proto)
    named = [name for name in classes.label_outputs(first.proto) if name in found]
    both = {name: (held, found[name]) for name, held in expected.items() if name in found}
    if labels is not None:
        return _classifier_metrics(first, both, target, labels, named[:1])
    if named:
        raise DataError(
            f"{first.origin}: the graph does not tell the class labels of its output "
            f"'{named[0]}', so that the target cannot be matched with it; leave the target out."
        )
    return _regressor_metrics(both, target)


def _classifier_metrics(
    first: Model,
    both: Mapping[str, tuple[Values, Values]],
    target: Array,
    labels: classes.Labels,
    named: list[str],
) -> tuple[Metric, ...]:
    from onnxtune.data import encode_labels

    index = encode_labels(target, labels)
    found = []
    score = classes.score_output(first.proto, *named) or ""
    if score in both and all(_are_probabilities(held.numbers, labels) for held in both[score]):
        losses = [log_loss(held.numbers, index) for held in both[score]]
        found.append(_metric("log loss", score, *losses))
    known = np.array(labels, object)
    answers = []
    if named:
        answers = [held.numbers for held in both[named[0]]]
    elif found:
        answers = [known[held.numbers.argmax(axis=1)] for held in both[score]]
    if answers:
        rights = [1 - zero_one_error(answer, known[index]) for answer in answers]
        found.append(_metric("accuracy", named[0] if named else score, *rights))
    return tuple(found)


def _are_probabilities(scores: Array, labels: classes.Labels) -> bool:
    if scores.ndim != 2 or scores.shape[1] != len(labels) or scores.dtype.kind != "f":
        return False
    inside = (scores >= -1e-6).all() and (scores <= 1 + 1e-6).all()
    return bool(inside and (np.abs(scores.sum(axis=1) - 1) < 1e-3).all())


def _regressor_metrics(
    both: Mapping[str, tuple[Values, Values]], target: Array
) -> tuple[Metric, ...]:
    from onnxtune.data import check_numbers

    wanted = check_numbers(target).reshape(len(target), -1)
    fitting = {
        name: [held.numbers.reshape(wanted.shape) for held in pair]
        for name, pair in both.items()
        if pair[0].kind == "float" and pair[0].numbers.size == pair[1].numbers.size == wanted.size
    }
    if not fitting:
        raise DataError(
            f"The target has shape {list(target.shape)}, and no output of the model fits it; "
            f"the outputs are {', '.join(both) or 'none'}."
        )
    variance = wanted.var(axis=0)
    found = []
    for name, pair in fitting.items():
        for metric, loss in (
            ("mean squared error", squared_error),
            ("mean absolute error", absolute_error),
        ):
            found.append(_metric(metric, name, *(loss(numbers, wanted) for numbers in pair)))
        if (variance > 0).all():  # R2 is the mean over rows of 1 - (error / sd)^2
            shares = [(1 - (numbers - wanted) ** 2 / variance).mean(axis=1) for numbers in pair]
            found.append(_metric("R2", name, *shares))
    return tuple(found)


def _metric(name: str, output: str, first: Array, second: Array) -> Metric:
    means = float(first.mean()), float(second.mean())
    return Metric(name, output, *means, *paired(first, second))
