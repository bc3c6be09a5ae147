"""What of a tuned model a pipeline cannot hold: collected, and told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxtune.errors import UnsupportedError
from onnxtune.sklearn.number_places import Key
from onnxtune.sklearn.steps.registry import find

_LOGITS = (
    "its probabilities became logits in front of a link that it does not have; tune with "
    "only_numbers=True"
)
_TREES = "it has more trees in the tuned model, or fewer; tune with max_size=1"


class Problems:
    """Problems by step.

    Args:
        names: the tensor that each place of the tuned model holds.
        titles: what a step is called in the pipeline, by its identity.
    """

    def __init__(self, names: Mapping[Key, str], titles: Mapping[int, str]) -> None:
        self._names, self._titles = names, titles
        self._told: dict[str, None] = {}

    def add(self, step: Any, problem: str) -> None:
        """Something that is wrong with a step; None for none of them."""
        if step is None:
            self._told[problem] = None
            return
        title = self._titles.get(id(step))
        named = type(step).__name__ + (f" '{title}'" if title else "")
        self._told[f"{named}: {problem}"] = None

    def changed(self, node: str, step: Any, what: str) -> None:
        """A node is not the same but for its numbers."""
        attribute = what.removeprefix("has another ")
        if attribute == "post_transform":
            self.add(step, f"{_LOGITS}.")
        elif attribute.startswith(("nodes_", "class_", "target_", "number of nodes_")):
            self.add(step, f"{_TREES}.")
        elif what.endswith("was added"):
            self.add(
                None,
                f"Node '{node}' {what.removeprefix('is ')}: no step of the pipeline holds it. Tune "
                "without companion and target_transform.",
            )
        else:
            self.add(step, f"node '{node}' {what}; tune with freeze='{node}/*'.")

    def missing(self, key: Key, step: Any) -> None:
        """A tensor of the tuned model that the pipeline's own export does not have, or twice."""
        self.add(
            step,
            f"{self._names[key]!r} is not in the export of this pipeline: was it another one that "
            "was tuned, or fitted anew since?",
        )

    def left(self, key: Key, step: Any) -> None:
        """A tensor that a step does not hold as it was tuned."""
        name = self._names[key]
        why = "it holds no such numbers" if step is None or find(step) else "no way back is known"
        self.add(step, f"{why} for {name!r}; tune with freeze={name!r}.")

    def check(self) -> None:
        """Raise what was collected.

        Raises:
            UnsupportedError: there is something.
        """
        if self._told:
            raise UnsupportedError("The numbers cannot all go back. " + " ".join(self._told))
