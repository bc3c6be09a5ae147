"""A model cut into what runs on the CPU and what runs on the GPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf.message import DecodeError

from onnxtune.conversion import Form, Precision, converted, serving_for
from onnxtune.graph_parts import part
from onnxtune.joined_columns import join
from onnxtune.model import ModelLike, check_output, is_one_of, load, write
from onnxtune.output import table
from onnxtune.part_marks import mark_part, part_mark
from onnxtune.placement import SIDES, Placement, Side
from onnxtune.runtime import input_types, run
from onnxtune.subgraphs import reads
from rewrites.core.rewrite import TreeForm

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitModel:
    """Up to three models that do together what the whole one does.

    Each reads inputs of the whole model and outputs of those before it, by name.

    Attributes:
        cpu: runs first, on the CPU; None where the GPU takes the model's inputs themselves.
        gpu: runs on the GPU, and every node of it has a kernel there.
        tail: runs last, on the CPU: labels that are words, ZipMap; None where there is nothing.
        outputs: the outputs of the whole model, in their order.
    """

    cpu: onnx.ModelProto | None
    gpu: onnx.ModelProto
    tail: onnx.ModelProto | None
    outputs: tuple[str, ...]

    @property
    def parts(self) -> dict[Side, onnx.ModelProto]:
        """The models that there are, in the order in which they run."""
        listed: dict[Side, onnx.ModelProto | None] = {
            "cpu": self.cpu, "gpu": self.gpu, "tail": self.tail
        }  # fmt: skip
        return {side: proto for side, proto in listed.items() if proto is not None}

    @property
    def between(self) -> tuple[str, ...]:
        """The tensors that go from the CPU part to the GPU part; one wherever that is possible."""
        made = set() if self.cpu is None else {value.name for value in self.cpu.graph.output}
        return tuple(value.name for value in input_types(self.gpu) if value.name in made)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """All parts one after another on the CPU, to check them where there is no GPU.

        Args:
            feed: the whole model's inputs.

        Returns:
            The whole model's outputs, by name.

        Raises:
            DataError: onnxruntime refuses the data.
        """
        known = dict(feed)
        for proto in self.parts.values():
            names = [value.name for value in input_types(proto)]
            known |= run(proto, {name: known[name] for name in names})
        return {name: known[name] for name in self.outputs}

    def paths(self, stem: str | os.PathLike[str]) -> dict[Side, Path]:
        """Where `save` writes each part: `<stem>.<part>.onnx`."""
        return {side: part_path(stem, side) for side in self.parts}

    def save(self, stem: str | os.PathLike[str], inputs: Iterable[Any] = ()) -> None:
        """Write each part to a file of its own, `<stem>.<part>.onnx`.

        A part that an earlier call left there, and that this model has not, is deleted.

        Args:
            stem: path and first part of the names.
            inputs: files that must not be written over.

        Raises:
            ArgumentError: a file cannot be written.
        """
        kept = [*inputs]
        paths = self.paths(stem)
        for path in paths.values():
            check_output(path, kept)
        for side, path in paths.items():
            write(path, self.parts[side].SerializeToString())
        for side in SIDES:
            path = part_path(stem, side)
            if side not in paths and not is_one_of(path, kept):
                _delete_part(path, side)

    def facts(self, stem: str | os.PathLike[str]) -> dict[str, Any]:
        """What each file of `save` holds, and what goes from the CPU to the GPU."""
        files = [
            {
                "part": side,
                "file": str(path),
                "nodes": len(self.parts[side].graph.node),
                "inputs": [value.name for value in input_types(self.parts[side])],
                "outputs": [value.name for value in self.parts[side].graph.output],
            }
            for side, path in self.paths(stem).items()
        ]
        return {"files": files, "between": list(self.between)}

    def text(self, stem: str | os.PathLike[str]) -> str:
        """The same as a table."""
        columns = ("part", "file", "nodes", "inputs", "outputs")
        rows = [
            [", ".join(row[c]) if isinstance(row[c], list) else row[c] for c in columns]
            for row in self.facts(stem)["files"]
        ]
        lines = [table(columns, rows, "llrll")]
        if self.cpu is not None:
            lines.append(f"\nFrom the CPU to the GPU: {', '.join(self.between) or 'nothing'}.")
        return "\n".join(lines)


def part_path(stem: str | os.PathLike[str], side: Side) -> Path:
    """The file of a part."""
    return Path(f"{os.fspath(stem)}.{side}.onnx")


def _delete_part(path: Path, side: Side) -> None:
    """Delete a file if it is that part of some model."""
    try:
        mark = part_mark(onnx.load(path, load_external_data=False))
    except (OSError, DecodeError):
        return
    if mark is not None and mark.side == side:
        path.unlink()
        _log.info("%s: deleted, since this model has no such part.", path)


def split(
    model: ModelLike,
    form: Form = "hard",
    temperature: float | Literal["auto"] = "auto",
    data: Any = None,
    *,
    trees: TreeForm | Literal["auto"] = "auto",
    batch_size: int = 1000,
    sample: Any = None,
    precision: Precision = "float32",
) -> SplitModel:
    """Cut a model into a part for the CPU, one for the GPU and, for labels, a tail on the CPU.

    The model is converted as `convert(..., provider="cuda")` does it. What has no kernel of
    onnxruntime's CUDA provider (strings, text, maps, labels that are words) goes to the CPU, with
    all that feeds it or all that reads it.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator; one in the hard or the
            soft form already stays in it.
        form: as in `convert`.
        temperature: as in `convert`.
        data: as in `convert`.
        trees: as in `convert`.
        batch_size: rows a call, as in `convert`.
        sample: as in `convert`.
        precision: as in `convert`.

    Returns:
        The parts. Where there is a part on the CPU, the inputs of the model that are floats go
        through it, and all float32 columns reach the GPU as one tensor [N, F].

    Raises:
        ModelError: the model is unreadable or invalid.
        ArgumentError: as in `convert`.
        UnsupportedError: as in `convert`.
    """
    source = load(model, data if sample is None else sample)
    serving = serving_for(trees, batch_size, "cuda")
    whole, placement = converted(source, form, temperature, data, serving, precision)
    assert placement is not None
    return cut(whole, placement)


def cut(whole: onnx.ModelProto, placement: Placement) -> SplitModel:
    """The parts of a model in the form for the CUDA provider."""
    held = {tensor.name for tensor in whole.graph.initializer}
    fed = [value.name for value in whole.graph.input if value.name not in held]
    final = [value.name for value in whole.graph.output]
    nodes: dict[Side, list[onnx.NodeProto]] = {"cpu": [], "gpu": [], "tail": []}
    for node in whole.graph.node:
        nodes[placement.sides[node.name]].append(node)
    made = {side: {out for node in taken for out in node.output} for side, taken in nodes.items()}
    made["gpu"] |= held.intersection(final)  # outputs that are the same in every call
    read = {
        side: list(dict.fromkeys(v for node in taken for v in reads(node) if v not in held))
        for side, taken in nodes.items()
    }
    entering = [value for value in read["gpu"] if value not in made["gpu"]]
    through = [*read["tail"], *final]
    joined = None
    if made["cpu"].intersection(entering):
        joined = join(whole, entering, placement.type_of)
    together = set() if joined is None else {value.name for value in joined.values}
    # What no node reads, such as a dropped column, enters the first part: rows that the whole
    # model takes are rows for its parts.
    unread = [value for value in fed if value not in {*final, *chain(*read.values())}]

    def model(side: Side, inputs: Sequence[str], outputs: Iterable[str]) -> onnx.ModelProto:
        given = [value for value in dict.fromkeys(outputs) if value in made[side]]
        found = part(whole, nodes[side], inputs, given, placement.type_of)
        found.metadata_props.extend(whole.metadata_props)
        mark_part(found, side, final)
        return found

    gpu = model("gpu", entering if nodes["cpu"] else [*entering, *unread], through)
    cpu = None
    if nodes["cpu"]:
        alone = [value for value in entering if value not in together]
        own = {*read["cpu"], *unread}
        cpu = model("cpu", [value for value in fed if value in own], [*alone, *through])
        if joined is not None:
            joined.send(cpu, whole.graph.input)
            joined.receive(gpu)
    tail = None
    if nodes["tail"]:
        inputs = [value for value in read["tail"] if value not in made["tail"]]
        tail = model("tail", inputs, final)
    return SplitModel(cpu, gpu, tail, tuple(final))
