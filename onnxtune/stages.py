"""Models chained by the names of their values, each in a session on a provider of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxtune import bindings, runtime
from onnxtune.captured_graphs import CapturedGraphs
from onnxtune.columns import sizes_after_rows
from onnxtune.errors import ArgumentError, DataError
from onnxtune.model import Model, ModelLike, load
from onnxtune.part_marks import PartMark, part_mark
from onnxtune.runtime import ValueType

Values = dict[str, Any]  # name -> numpy array, torch tensor, or list of dictionaries


@dataclass(frozen=True)
class Link:
    """A model of a chain before it is loaded.

    Attributes:
        model: the model.
        provider: where it is to run; None for where the caller says.
        inputs: what it is fed.
        mark: of a part of a split model, what it says of itself.
    """

    model: Model
    provider: str | None
    inputs: tuple[ValueType, ...]
    mark: PartMark | None = None


def links(model: ModelLike, sample: Any = None) -> list[Link]:
    """The models of a chain in their order: one, several, or what `onnxtune.split` makes.

    Of a split model, or its files, the part for the GPU goes where the caller says, the others to
    the CPU.

    Raises:
        ArgumentError: there is none.
        ModelError: one cannot be read.
    """
    if hasattr(model, "parts") and hasattr(model, "gpu"):  # a SplitModel
        given = list(model.parts.values())
    else:
        given = list(model) if isinstance(model, list | tuple) else [model]
    if not given:
        raise ArgumentError("There is no model to run; give at least one.")
    loaded = [load(part, sample) for part in given]
    marks = [part_mark(one.proto) for one in loaded]
    whole = any(mark is not None and mark.side == "gpu" for mark in marks)
    made = []
    for one, mark in zip(loaded, marks, strict=True):
        beside = whole and mark is not None and mark.side != "gpu"
        place = "cpu" if beside else None
        made.append(Link(one, place, tuple(runtime.input_types(one.proto)), mark))
    return made


class Stage:
    """A session and what it takes and gives. Runs may overlap, from several threads."""

    def __init__(
        self,
        link: Link,
        provider: str,
        threads: int | None,
        settings: Mapping[str, str],
        graph_sizes: Sequence[int] = (),
    ) -> None:
        """Load the model.

        Args:
            link: the model.
            provider: where it runs.
            threads: intra-op threads; None leaves the choice to onnxruntime.
            settings: onnxruntime's options of the provider.
            graph_sizes: batch sizes whose runs are captured as CUDA graphs.
        """
        self.model, self.provider, self.inputs = link.model, provider, link.inputs
        self.mark = link.mark

        def opened(more: Mapping[str, str]) -> Any:
            return runtime.session(
                link.model.content,
                provider,
                threads,
                origin=link.model.origin,
                settings={**settings, **more},
            )

        self.session = opened({})
        self.outputs = tuple(output.name for output in self.session.get_outputs())
        self.fixed = runtime.fixed_sizes(self.inputs)
        self._numbers = all(
            value.type.startswith("tensor(") and value.type != "tensor(string)"
            for value in (*self.session.get_inputs(), *self.session.get_outputs())
        )
        self._captured = None
        if graph_sizes:
            self._captured = CapturedGraphs(
                opened, self.session, self.inputs, graph_sizes, provider
            )

    def run(self, values: Mapping[str, Any]) -> Values:
        """Its outputs by name: of arrays arrays, of tensors tensors where they are numbers.

        Raises:
            DataError: onnxruntime refuses the values.
        """
        feed = {value.name: values[value.name] for value in self.inputs}
        tensors = any(bindings.is_tensor(each) for each in feed.values())
        try:
            if self._captured is not None and self._captured.takes(feed):
                return self._captured.run(feed)
            if tensors and self._numbers:
                found = bindings.run(self.session, feed, self.outputs, self.provider)
                return dict(zip(self.outputs, found, strict=True))
            arrays = {v.name: bindings.to_array(feed[v.name], v) for v in self.inputs}
            made = self.session.run(list(self.outputs), arrays)
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no public base class
            memory = runtime.out_of_memory(error)
            if memory is not None:
                raise MemoryError(memory) from error
            raise DataError(
                f"{self.model.origin}: onnxruntime cannot run these data: {runtime.one_line(error)}"
            ) from error
        return dict(zip(self.outputs, made, strict=True))

    def close(self) -> None:
        """Let the session go, and the memory that it holds."""
        if self._captured is not None:
            self._captured.close()
        self._captured = None
        self.session = None


def chain_inputs(chain: Sequence[Stage]) -> tuple[ValueType, ...]:
    """What a caller feeds: what no stage before takes from another."""
    found: dict[str, ValueType] = {}
    made: set[str] = set()
    for stage in chain:
        for value in stage.inputs:
            if value.name not in made and value.name not in found:
                found[value.name] = value
        made |= set(stage.outputs)
    return tuple(found.values())


def chain_outputs(chain: Sequence[Stage], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """What a caller gets: the names asked for, else all that no later stage takes.

    Of the parts of a split model those of the whole one, in its order.

    Raises:
        ArgumentError: a name that no stage makes.
    """
    made = list(dict.fromkeys(name for stage in chain for name in stage.outputs))
    marks = [stage.mark for stage in chain if stage.mark is not None]
    known = {*made, *(value.name for value in chain_inputs(chain))}
    if wanted is None and len(marks) == len(chain) and known.issuperset(marks[-1].outputs):
        return marks[-1].outputs
    if wanted is not None:
        for name in wanted:
            if name not in made:
                raise ArgumentError(f"Output '{name}' is none of {', '.join(made)}.")
        return tuple(wanted)
    taken = {
        value.name
        for at, stage in enumerate(chain)
        for value in stage.inputs
        if any(value.name in before.outputs for before in chain[:at])
    }
    return tuple(name for name in made if name not in taken)


def run_chain(chain: Sequence[Stage], feed: Mapping[str, Any], outputs: Sequence[str]) -> Values:
    """One batch through all stages."""
    values = dict(feed)
    for stage in chain:
        values |= stage.run(values)
    return {name: values[name] for name in outputs}


def rows_of(feed: Mapping[str, Any], fixed: Mapping[str, int]) -> int:
    """The rows of a batch: those of its first input whose length is not fixed."""
    free = [each for name, each in feed.items() if name not in fixed]
    return len(free[0]) if free else max((len(each) for each in feed.values()), default=0)


def zeros(inputs: Sequence[ValueType], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """A batch of zeros, or of empty strings.

    Raises:
        ArgumentError: a dimension beside the rows is not fixed.
    """
    made = {}
    for value in inputs:
        sizes = sizes_after_rows(value)
        known = [size for size in sizes or () if size is not None]
        if sizes is None or len(known) < len(sizes):
            raise ArgumentError(
                f"Input '{value.name}' has dimensions that vary beside the rows; export the model "
                "with fixed ones."
            )
        fill: Any = "" if value.is_string else 0
        fixed = runtime.fixed_sizes([value]).get(value.name, rows)
        made[value.name] = np.full((fixed, *known), fill, value.dtype)
    return made
