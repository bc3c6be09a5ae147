"""Which part of a split model a file is, and what the whole one gives, as its metadata say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

PART_KEY = "onnxtune.part"
OUTPUTS_KEY = "onnxtune.outputs"


@dataclass(frozen=True)
class PartMark:
    """What a part says of itself.

    Attributes:
        side: "cpu", "gpu" or "tail".
        outputs: the outputs of the whole model, in their order.
    """

    side: str
    outputs: tuple[str, ...]


def mark_part(proto: onnx.ModelProto, side: str, outputs: Sequence[str]) -> None:
    """Write into a model's metadata that it is a part; of a part that is split again, the last."""
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(proto, facts | {PART_KEY: side, OUTPUTS_KEY: json.dumps(list(outputs))})


def part_mark(proto: onnx.ModelProto) -> PartMark | None:
    """What `mark_part` wrote; None for any other model."""
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    if PART_KEY not in facts or OUTPUTS_KEY not in facts:
        return None
    return PartMark(facts[PART_KEY], tuple(json.loads(facts[OUTPUTS_KEY])))
