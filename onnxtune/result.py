"""What `tune` returns: whether the tuned model was accepted, and the model in three forms."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnxtune import output
from onnxtune.export import SavedForm, with_metadata, written
from onnxtune.model import check_output, write
from onnxtune.preparation import Prepared
from onnxtune.training_loop import Epoch
from rewrites.core.rewrite import Array

_log = logging.getLogger(__name__)

_FORM_NAMES = {"hard": "native, hard", "soft": "soft"}


@dataclass(frozen=True)
class Verdict:
    """The paired comparison on the validation rows; losses are means per row.

    `z` is the mean gain over its standard error; the tuned model is taken where it is above
    `needed_z`.
    """

    before: float
    after: float
    gain: float
    standard_error: float
    z: float
    needed_z: float

    @property
    def accepted(self) -> bool:
        """Whether the gain is beyond its standard error."""
        return self.gain > 0 and self.z > self.needed_z


@dataclass(frozen=True)
class TuneResult:
    """The outcome of a tuning run.

    Attributes:
        prepared: the model as it came.
        tensors: tuned tensors by ONNX name, for the native and hard forms; empty where these stay
            the original.
        soft_tensors: those for the soft form.
        verdicts: by "hard" and, with soft routing, "soft".
        history: a record per epoch.
        report: figures for people and programs.
        module: the torch module, its tensors those of the native form.
    """

    prepared: Prepared
    tensors: dict[str, Array]
    soft_tensors: dict[str, Array]
    verdicts: dict[str, Verdict]
    history: tuple[Epoch, ...]
    report: dict[str, Any]
    temperature: float
    spreads: dict[str, Array] = field(repr=False)
    module: Any = field(repr=False)
    metadata: dict[str, str] = field(repr=False)

    @property
    def accepted(self) -> bool:
        """Whether any form is better than the original beyond its standard error."""
        return any(verdict.accepted for verdict in self.verdicts.values())

    def model(self, form: SavedForm = "native") -> onnx.ModelProto:
        """The tuned model; the original in that form where tuning did not help.

        Raises:
            ArgumentError: no such form.
        """
        tensors = self.soft_tensors if form == "soft" else self.tensors
        proto = written(
            self.prepared, tensors, form, self.temperature, self.spreads, [self.report["output"]]
        )
        if tensors:
            with_metadata(proto, self.prepared.source, self.metadata)
        elif form != "native":
            with_metadata(proto, self.prepared.source, {})
        return proto

    def warning(self, form: SavedForm) -> str | None:
        """What to know before the model is used in this form; None where there is nothing."""
        if form != "soft":
            return None
        if not self.soft_tensors:
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

    def save(self, path: str | os.PathLike[str], form: SavedForm = "native") -> None:
        """Write the model; byte for byte the original where it is native and nothing was tuned.

        Raises:
            ArgumentError: no such form; the path is the input's, or cannot be written.
        """
        target = check_output(path, [self.prepared.source.path])
        warning = self.warning(form)
        if warning:
            _log.warning("%s: %s", target, warning)
        if form == "native" and not self.tensors:
            write(target, self.prepared.source.content)
        else:
            write(target, self.model(form).SerializeToString())

    def text(self) -> str:
        """Losses on the validation rows before and after, and whether the model was taken."""
        report = self.report
        rows = [
            [
                _FORM_NAMES[form],
                verdict.before,
                verdict.after,
                f"{100 * verdict.gain / verdict.before:+.1f}%" if verdict.before > 0 else "-",
                output.number(verdict.z),
                "tuned" if verdict.accepted else "the original, unchanged",
            ]
            for form, verdict in self.verdicts.items()
        ]
        headers = ["form", f"{report['loss']} loss", "tuned", "gain", "z", "holds"]
        lines = [
            output.table(headers, rows),
            "",
            f"{report['rows']:,} rows, {report['validation_rows']:,} for validation; "
            f"{report['epochs']} epochs in {output.duration(report['seconds'])}.",
        ]
        if not self.accepted:
            lines.append("Tuning did not help beyond its standard error: the original is kept.")
        lines += [f"'{node}' was replaced: {why}." for node, why in report["replaced"].items()]
        return "\n".join(lines)
