"""The mean of what the folds were tuned to, which has learned from every row.

Each fold lets other rows go. Where scores are linear in the tensors (leaf values, linear models)
and the loss is convex in the scores, the mean loses no more than the folds do on average (Jensen);
thresholds lie close enough together that their mean stands for them (Wortsman et al. 2022, "Model
soups", section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxtune.judging import Court
from onnxtune.links import operator_links
from onnxtune.result import Candidate
from rewrites.core.rewrite import Array


@dataclass
class FoldMean:
    """Sums of the tensors of each candidate over the folds, by its name.

    A candidate whose nodes end in another link or that has other shapes in some fold has no mean.
    """

    _links: dict[str, dict[str, str]] = field(default_factory=dict)
    _sums: dict[str, dict[str, Array]] = field(default_factory=dict)
    _folds: int = 0

    def add(self, court: Court, candidates: Iterable[Candidate]) -> None:
        """The candidates of one fold more."""
        found = {candidate.name: candidate for candidate in candidates}
        own = _own(court, found.values())
        if not self._folds:
            self._links = {name: _links(one) for name, one in found.items()}
            self._sums = {
                name: {key: value.astype(np.float64) for key, value in tensors.items()}
                for name, tensors in own.items()
            }
        self._folds += 1
        if self._folds == 1:
            return
        for name, sums in list(self._sums.items()):
            other = found.get(name)
            tensors = own.get(name, {})
            if other is None or _links(other) != self._links[name] or not _fit(sums, tensors):
                del self._sums[name]
                continue
            for key in sums:
                sums[key] += tensors[key]

    def judged(self, court: Court, candidate: Candidate) -> Candidate:
        """The candidate with the mean tensors; as it is where there is no mean.

        Its verdict stays that of the folds, each on the rows that it did not see.
        """
        sums = self._sums.get(candidate.name)
        if self._folds < 2 or sums is None:
            return candidate
        own = _own(court, [candidate])[candidate.name]
        types = {key: value.dtype for key, value in own.items()}
        tensors = {key: np.asarray(sums[key] / self._folds, types[key]) for key in sums}
        # Soft gates are as wide as the first fold chose.
        mean = replace(court, temperature=candidate.temperature).judge(
            candidate.name, candidate.form, candidate.size, candidate.prepared, tensors
        )
        return Candidate(**vars(mean) | {"verdict": candidate.verdict, "losses": candidate.losses})


def _own(court: Court, candidates: Iterable[Candidate]) -> dict[str, dict[str, Array]]:
    """All learned numbers by candidate, those that it leaves as they are in its model too."""
    held: dict[int, dict[str, Array]] = {}  # by the model, which candidates share
    found = {}
    for candidate in candidates:
        prepared = candidate.prepared
        if id(prepared) not in held:
            learned = court.learned(prepared)
            held[id(prepared)] = {name: tensor.value for name, tensor in learned.items()}
        found[candidate.name] = held[id(prepared)] | candidate.tensors
    return found


def _links(candidate: Candidate) -> dict[str, str]:
    return operator_links(candidate.prepared.source.proto.graph)


def _fit(first: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    shapes = [{key: value.shape for key, value in each.items()} for each in (first, other)]
    return shapes[0] == shapes[1]
