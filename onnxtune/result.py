"""What `tune` returns: whether the tuned model was accepted, and the model in three forms."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx

from onnxtune import tune_plot, tune_report
from onnxtune.cuda_form import finish
from onnxtune.errors import ArgumentError
from onnxtune.export import SavedForm, check_saved, with_metadata, written
from onnxtune.figures import write_figure
from onnxtune.inner_outputs import without_inner
from onnxtune.model import check_output, write
from onnxtune.preparation import Prepared
from onnxtune.settings import Epoch
from onnxtune.target_transforms import with_inverse
from rewrites.core.rewrite import Array, Provider

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """The paired comparison on the validation rows; losses are means per row.

    `z` is the mean gain over its standard error; the tuned model is taken where it is above
    `needed_z`. One that was to become smaller has a loss below `limit`, a little above that of all
    trees, by a `limit_z` above that. A bolder one must be better than a milder one, too, beyond
    chance: `milder_z`.
    """

    before: float
    after: float
    gain: float
    standard_error: float
    z: float
    needed_z: float
    limit: float | None = None
    limit_z: float | None = None
    milder_z: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the gain is beyond its standard error, or the loss within what is allowed."""
        if self.limit_z is not None:
            return self.limit_z > self.needed_z
        if self.milder_z is not None and not self.milder_z > self.needed_z:
            return False
        return self.gain > 0 and self.z > self.needed_z


# The forms that are judged: native and hard count as one.
Form = Literal["hard", "soft"]
FORMS: tuple[Form, ...] = ("hard", "soft")


@dataclass(frozen=True)
class Candidate:
    """A tuned model.

    Attributes:
        name: how it was made.
        form: in which form it is to run.
        size: trees, over those of the original.
        prepared: the model that holds the tensors.
        tensors: by ONNX name, as the file holds them.
        verdict: against the original.
        losses: [N], on each validation row.
        test: its mean loss on test rows, where there are some.
        temperature: of its soft gates.
        milder: the candidate that it must beat beyond chance beside the original.
    """

    name: str
    form: Form
    size: float
    prepared: Prepared
    tensors: dict[str, Array]
    verdict: Verdict
    losses: Array
    test: float | None
    temperature: float
    milder: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its figures."""
        return {
            "name": self.name,
            "form": self.form,
            "size": self.size,
            **vars(self.verdict),
            "accepted": self.verdict.accepted,
            **({} if self.test is None else {"test": self.test}),
        }


@dataclass(frozen=True)
class TuneResult:
    """The outcome of a tuning run.

    Attributes:
        prepared: the model as it came.
        hard: what was taken for the native and hard forms; None where these stay the original.
        soft: what was taken for the soft form.
        verdicts: by "hard" and, with soft routing, "soft".
        history: a record per epoch.
        report: figures for people and programs.
        module: the torch module, its tensors those of the native form.
        transform: what the target went through; the written graphs end in its inverse.
        inner: the inner value that was tuned toward the target, if it was one.
        added: how the names begin of what was added to the graph for it.
        again: `tune` with the arguments of this run.
    """

    prepared: Prepared
    hard: Candidate | None
    soft: Candidate | None
    verdicts: dict[Form, Verdict]
    history: tuple[Epoch, ...]
    report: dict[str, Any]
    temperature: float
    spreads: dict[str, Array] = field(repr=False)
    module: Any = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    transform: str | None = None
    inner: str | None = None
    added: str | None = None
    again: Callable[..., TuneResult] | None = field(default=None, repr=False)

    @property
    def tensors(self) -> dict[str, Array]:
        """Tuned tensors by ONNX name, for the native and hard forms; empty for the original."""
        return {} if self.hard is None else self.hard.tensors

    @property
    def soft_tensors(self) -> dict[str, Array]:
        """Those for the soft form."""
        return {} if self.soft is None else self.soft.tensors

    @property
    def accepted(self) -> bool:
        """Whether any form is better than the original beyond its standard error."""
        return any(c is not None and c.verdict.accepted for c in (self.hard, self.soft))

    def model(self, form: SavedForm = "native", provider: Provider = "cpu") -> onnx.ModelProto:
        """The tuned model; the original in that form where tuning did not help.

        Args:
            form: "native", "hard" or "soft".
            provider: where a hard or soft form is to run, "cpu" or "cuda", as in
                `onnxtune.convert`.

        Raises:
            ArgumentError: no such form or provider, or the native form for "cuda".
            UnsupportedError: nothing of the model can run on a GPU.
        """
        proto = self._model(form, provider)
        if self.transform is not None:
            proto = with_inverse(proto, self.report["output"], self.transform)
        finish(proto, provider, self.prepared.source.origin)
        return proto

    def _model(self, form: SavedForm, provider: Provider = "cpu") -> onnx.ModelProto:
        """The model without the inverse of a target's transformation."""
        taken = self.soft if form == "soft" else self.hard
        prepared, tensors = (
            (self.prepared, {}) if taken is None else (taken.prepared, taken.tensors)
        )
        proto = written(
            prepared, tensors, form, self.temperature, self.spreads, [self.report["output"]],
            provider,
        )  # fmt: skip
        if taken is not None:
            with_metadata(proto, self.prepared.source, self.metadata)
        elif form != "native":
            with_metadata(proto, self.prepared.source, {})
        return proto if self.inner is None else without_inner(proto, self.inner, self.added)

    def continue_(self, X: Any, y: Any, **changes: Any) -> TuneResult:
        """Tune what came of this run on other rows.

        It takes the arguments of the first run, but for those that speak of its rows alone (a
        `valid` or `sample_weight` that is an array, `checkpoint` and `resume`), and those that
        would undo what came of it (`init`, `max_size` below 1).

        Args:
            X: the rows, as `onnxtune.tune` takes them.
            y: the target.
            changes: other arguments of `onnxtune.tune`.

        Raises:
            ArgumentError: the soft form alone was taken, which cannot be tuned on.
        """
        assert self.again is not None
        if self.hard is None and self.soft is not None:
            raise ArgumentError(
                "Only the soft form was taken, and tuning cannot go on from that: the native form "
                "is the original. Tune again, with routing='leaves' or 'straight-through'."
            )
        return self.again(self._model("native"), X, y, **changes)

    def warning(self, form: SavedForm) -> str | None:
        """What to know before the model is used in this form; None where there is nothing."""
        if form != "soft":
            return None
        if self.soft is None:
            return (
                "The soft form of the original is not equal to it: its trees pass rows down both "
                "sides."
            )
        if "soft" not in self.verdicts:
            return (
                "The soft form was not judged on the validation rows; tune with routing='soft' "
                "to have it judged."
            )
        return None

    def save(
        self,
        path: str | os.PathLike[str],
        form: SavedForm = "native",
        provider: Provider = "cpu",
    ) -> None:
        """Write the model; byte for byte the original where it is native and nothing was tuned.

        Args:
            path: the file.
            form: as in `model`.
            provider: as in `model`.

        Raises:
            ArgumentError: no such form or provider, or the native form for "cuda"; the path is the
                input's, or cannot be written.
            UnsupportedError: nothing of the model can run on a GPU.
        """
        check_saved(form, provider)
        target = check_output(path, [self.prepared.source.path])
        warning = self.warning(form)
        if warning:
            _log.warning("%s: %s", target, warning)
        if form == "native" and self.hard is None and self.transform is None:
            write(target, self.prepared.source.content)
        else:
            write(target, self.model(form, provider).SerializeToString())

    def text(self) -> str:
        """Every candidate beside the original, and which was taken and why."""
        return tune_report.text(self.report)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the epochs, the candidates and, of a classifier, the reliability curves.

        The name's ending chooses the format: .png, .svg or .pdf.

        Raises:
            ArgumentError: the format is unknown, or the file cannot be written.
        """
        target = check_output(path, [self.prepared.source.path])
        write_figure(
            target,
            tune_plot.figure_size(self.report),
            lambda figure: tune_plot.draw(figure, self.report, self.history),
        )
