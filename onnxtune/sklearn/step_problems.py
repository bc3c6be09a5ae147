"""What of a tuned model a pipeline cannot hold: collected, and told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnxtune.errors import UnsupportedError
from onnxtune.sklearn.number_places import Key
from onnxtune.sklearn.steps.registry import find

_LOGITS = (
    "its probabilities became logits in front of a link that it does not have; tune with "
    "only_numbers=True."
)
_TREES = "it has other trees in the tuned model, more or fewer; tune with max_size=1."

_ADDED = "no step holds it; tune without companion and target_transform."
_FOREIGN = "it is not what was tuned: another pipeline, or fitted anew since"


class Problems:
    """Problems by step.

    Args:
        names: the tensor that each place of the tuned model holds.
        titles: what a step is called in the pipeline, by its identity.
    """

    def __init__(self, names: Mapping[Key, str], titles: Mapping[int, str]) -> None:
        self._names, self._titles = names, titles
        self._told: dict[str, None] = {}
        self._left: dict[str, dict[str, None]] = {}
        self._missing: dict[str, dict[str, None]] = {}

    def add(self, step: Any, problem: str) -> None:
        """Something that is wrong with a step."""
        self._told[f"{self._title(step)}: {problem}"] = None

    def changed(self, node: str, step: Any, what: str) -> None:
        """A node is not the same but for its numbers."""
        attribute = what.removeprefix("has another ")
        if attribute == "post_transform":
            self.add(step, _LOGITS)
        elif attribute.startswith(("nodes_", "class_", "target_", "number of nodes_")):
            self.add(step, _TREES)
        elif what.startswith("was added"):
            self._told[f"node '{node}' {what}: {_ADDED}"] = None
        else:
            self.add(step, f"node '{node}' {what}; tune with freeze='{node}/*'.")

    def missing(self, key: Key, step: Any) -> None:
        """A tensor of the tuned model that the pipeline's own export does not have."""
        self._missing.setdefault(self._title(step), {})[self._names[key]] = None

    def left(self, key: Key, step: Any) -> None:
        """A tensor that a step does not hold as it was tuned."""
        title = self._title(step)
        why = "holds no such numbers" if step is None or find(step) else "has no known way back"
        name = self._names.get(key, "/".join(key))
        self._left.setdefault(f"{title} {why}", {})[name] = None

    def check(self) -> None:
        """Raise what was collected.

        Raises:
            UnsupportedError: there is something.
        """
        told = list(self._told)
        told += [f"{title}: {_FOREIGN} ({_list(names)})" for title, names in self._missing.items()]
        told += [
            f"{what} for {_list(names)}; tune with freeze={sorted(names)}."
            for what, names in self._left.items()
        ]
        if told:
            raise UnsupportedError("The numbers cannot all go back. " + " ".join(told))

    def _title(self, step: Any) -> str:
        if step is None:
            return "No step"
        title = self._titles.get(id(step))
        return type(step).__name__ + (f" '{title}'" if title else "")


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
