"""Judges tuned models on the validation rows, with the numbers that a file would hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch

from onnxtune.agreement import as_values
from onnxtune.conversion import rewritten
from onnxtune.data import Table
from onnxtune.errors import OnnxTuneError
from onnxtune.export import as_held
from onnxtune.losses import Output, choose_loss
from onnxtune.metrics import paired
from onnxtune.model import load
from onnxtune.partition import partition
from onnxtune.preparation import Prepared, has_own_operators, prepare
from onnxtune.result import Candidate, Form, Verdict
from onnxtune.row_losses import evaluate
from onnxtune.rows import Rows, core_rows, hard_output, some_rows
from onnxtune.runtime import run
from onnxtune.settings import Settings
from onnxtune.torch_module import OnnxModule, learned_tensors
from rewrites.core.graph_pass import Plan
from rewrites.core.rewrite import Array, Routing
from rewrites.core.rewrite import Tensor as Learned


@dataclass(frozen=True)
class Held:
    """Rows that are held out of training.

    `entering` is what enters the core of them; the prefix took `seconds` for it. `weight` [N] is
    how much each counts.
    """

    table: Table
    target: Array
    entering: Sequence[Array]
    seconds: float
    weight: Array | None = None


@dataclass(frozen=True)
class Court:
    """What candidates are judged on.

    Attributes:
        valid: the validation rows.
        test: rows that are only reported on.
        settings: the loss and the output.
        scored: what the original's output is.
        original: [N], the original's loss on each row.
        spreads, temperature: of soft gates.
        device: where to compute.
        needed_z: how far beyond its standard error a gain must be.
        whole: [N], the loss that a smaller model is held against: that of all trees, scaled.
        allowed_loss: the relative loss that a smaller model may bring.
    """

    valid: Held
    test: Held | None
    settings: Settings
    scored: Output
    original: Array
    whole: Array
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

    def learned(self, prepared: Prepared) -> dict[str, Learned]:
        """The learned tensors of a model."""
        cut = partition(prepared, [self.settings.output])
        return learned_tensors(prepared, cut, self.spreads)

    def settings_for(self, module: OnnxModule) -> Settings:
        """The settings with the loss as this module's output wants it.

        A forest that moved to logits has a link in front of its output, which the original's
        has not.
        """
        source, loss = module.links[self.settings.output], self.settings.loss
        if source.link == self.scored.source.link or not loss.likelihood:
            return self.settings
        chosen = choose_loss(loss.name, replace(self.scored, source=source))
        return replace(self.settings, loss=chosen)

    def judge(
        self,
        name: str,
        form: Form,
        size: float,
        prepared: Prepared,
        tensors: Mapping[str, Array],
        milder: str | None = None,
    ) -> Candidate:
        """Compare a model row by row with the original."""
        held = as_held(prepared, tensors)
        module = self.module(prepared, form)
        module.load_tensors(held)
        tuned = self.losses(module, form)
        verdict = self.verdict(tuned, size)
        test = None
        if self.test is not None:
            test = float(self.losses(module, form, self.test).mean())
        return Candidate(
            name, form, size, prepared, held, verdict, tuned, test, self.temperature, milder
        )

    def verdict(self, tuned: Array, size: float) -> Verdict:
        """On the losses of a tuned model of this size on the validation rows, [N]."""
        gain, error, z = paired(tuned, self.original)
        before, after = float(self.original.mean()), float(tuned.mean())
        if not (self.allowed_loss and size < 1):
            return Verdict(before, after, gain, error, z, self.needed_z)
        whole = self.whole if self.whole.mean() < before else self.original
        limit = whole + self.allowed_loss * abs(float(whole.mean()))
        over = paired(tuned, limit)[2]
        return Verdict(before, after, gain, error, z, self.needed_z, float(limit.mean()), over)

    def rows(
        self,
        module: OnnxModule,
        routings: Iterable[Routing],
        trained: Sequence[str] | None = None,
        held: Held | None = None,
    ) -> Rows:
        """The validation rows, or others held out, run on to where training of some begins."""
        held = held or self.valid
        moved = list(module.learned) if trained is None else trained
        return core_rows(
            module, held.table, held.target, routings, moved, held.entering, held.weight
        )

    def losses(self, module: OnnxModule, form: Form, held: Held | None = None) -> Array:
        """[N]: the module's loss on each validation row, or on others held out."""
        rows = self.rows(module, [form], held=held)
        return evaluate(module, {}, rows, self.settings_for(module), form)


def convene(
    original: OnnxModule,
    valid: Held,
    test: Held | None,
    settings: Settings,
    scored: Output,
    needed_z: float,
    allowed_loss: float,
) -> Court:
    """A court that compares with the original."""
    device = next(original.parameters()).device
    court = Court(
        valid,
        test,
        settings,
        scored,
        np.empty(0),
        np.empty(0),
        original.spreads,
        original.temperature,
        device,
        needed_z,
        allowed_loss,
    )
    before = court.losses(original, "hard")
    return replace(court, original=before, whole=before)


def pooled(
    courts: Sequence[Court], first: list[Candidate], others: Sequence[Mapping[str, Array]]
) -> tuple[Court, list[Candidate]]:
    """Courts of several folds as one: losses on the rows of all, and the first fold's models.

    Args:
        courts: one a fold.
        first: the candidates of the first fold.
        others: of each other fold, the losses of its candidates by name. Only those that every
            fold brought are kept.
    """
    every = replace(
        courts[0],
        original=np.concatenate([each.original for each in courts]),
        whole=np.concatenate([each.whole for each in courts]),
    )
    together = []
    for candidate in first:
        same = [fold[candidate.name] for fold in others if candidate.name in fold]
        if len(same) == len(others):
            losses = np.concatenate([candidate.losses, *same])
            strict = replace(every, needed_z=candidate.verdict.needed_z)
            verdict = strict.verdict(losses, candidate.size)
            together.append(replace(candidate, losses=losses, verdict=verdict))
    return every, _beside_milder(together)


def _beside_milder(found: list[Candidate]) -> list[Candidate]:
    """Bolder candidates with their z over the milder ones."""
    by_name = {candidate.name: candidate for candidate in found}
    return [
        replace(c, verdict=replace(c.verdict, milder_z=paired(c.losses, milder.losses)[2]))
        if (milder := by_name.get(c.milder or "")) is not None
        else c
        for c in found
    ]


def best(found: list[Candidate], form: Form, accepted: bool = True) -> Candidate | None:
    """The one with the lowest loss in a form, if `accepted` of those.

    A smaller model is taken instead where its loss is within half a standard error of that. Where
    a part of the trees was asked for, all of them are the last resort.
    """
    able = [c for c in found if c.form == form and (c.verdict.accepted or not accepted)]
    able = [c for c in able if c.verdict.limit is not None] or able
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
    if has_own_operators(proto):  # onnxruntime need not know them, but it runs the hard form
        proto = rewritten(prepare(load(proto)), Plan({}, 0.1, {}))
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
