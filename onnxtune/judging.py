"""Judges tuned models on the validation rows, with the numbers that a file would hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from onnxtune.agreement import as_values
from onnxtune.data import Table
from onnxtune.errors import OnnxTuneError
from onnxtune.export import as_held
from onnxtune.metrics import paired
from onnxtune.partition import partition
from onnxtune.preparation import Prepared
from onnxtune.result import Candidate, Form, Verdict
from onnxtune.rows import core_rows, hard_output, some_rows
from onnxtune.runtime import run
from onnxtune.torch_module import OnnxModule
from onnxtune.training_loop import Settings, evaluate
from rewrites.core.rewrite import Array, Routing


@dataclass(frozen=True)
class Court:
    """What candidates are judged on.

    Attributes:
        table, target: the validation rows; `entering` is what enters the core of them.
        settings: the loss and the output.
        original: [N], the original's loss on each row.
        spreads, temperature: of soft gates.
        device: where to compute.
        needed_z: how far beyond its standard error a gain must be.
        allowed_loss: the relative loss that a smaller model may bring.
    """

    table: Table
    target: Array
    entering: Sequence[Array]
    settings: Settings
    original: Array
    spreads: Mapping[str, Array]
    temperature: float
    device: torch.device
    needed_z: float
    allowed_loss: float

    def module(self, prepared: Prepared, routing: Routing) -> OnnxModule:
        """A model as the rows are judged with."""
        cut = partition(prepared, [self.settings.output])
        module = OnnxModule(prepared, cut, self.spreads, routing, self.temperature)
        return module.to(self.device)

    def judge(
        self, name: str, form: Form, size: float, prepared: Prepared, tensors: Mapping[str, Array]
    ) -> Candidate:
        """Compare a model row by row with the original."""
        held = as_held(prepared, tensors)
        module = self.module(prepared, form)
        module.load_tensors(held)
        names = list(module.learned)
        rows = core_rows(module, self.table, self.target, [form], names, self.entering)
        tuned = evaluate(module, {}, rows, self.settings, form)
        gain, error, z = paired(tuned, self.original)
        before = float(self.original.mean())
        verdict = Verdict(
            before, float(tuned.mean()), gain, error, z, self.needed_z, self.allowed_loss
        )
        return Candidate(name, form, size, prepared, held, verdict)


def best(found: list[Candidate], form: Form, accepted: bool = True) -> Candidate | None:
    """The one with the lowest loss in a form, if `accepted` of those.

    A smaller model is taken instead where its loss is within half a standard error of that.
    """
    able = [c for c in found if c.form == form and (c.verdict.accepted or not accepted)]
    lowest = min(able, key=lambda c: c.verdict.after, default=None)
    if lowest is None:
        return None
    limit = lowest.verdict.after + np.nan_to_num(lowest.verdict.standard_error) / 2
    smaller = [c for c in able if c.size < lowest.size and c.verdict.after <= limit]
    return min(smaller, key=lambda c: (c.size, c.verdict.after), default=lowest)


def check_file(module: OnnxModule, proto: onnx.ModelProto, table: Table, output: str) -> None:
    """Run the native form on validation rows: it must give what was judged in torch.

    Raises:
        OnnxTuneError: it does not; the model is not handed out.
    """
    few = some_rows(table)
    expected = as_values(proto, run(proto, few, [output]))[output].numbers
    found = hard_output(module, few, output).cpu().numpy()
    expected = expected.reshape(found.shape)
    size = float(np.sqrt(np.nanmean(np.square(expected)))) if expected.size else 0.0
    close = np.isclose(found, expected, rtol=1e-3, atol=1e-3 * size, equal_nan=True)
    past = ~close.reshape(len(close), -1).all(axis=1)
    # After a matrix product last bits differ, and a row on a threshold may turn.
    if past.mean() > 0.01 and past.sum() > 1:
        raise OnnxTuneError(
            f"{module.prepared.source.origin}: the written model differs from the tuned one on "
            f"{past.sum()} of {len(past)} rows, so it was not kept; please report this model."
        )
