"""Soft trees written by hand in torch, the yardstick for what the way through ONNX costs.

Level by level: a gate for every node, its sigmoid, the share of a row that arrives times the gate
to the left and the rest to the right, and one product of the leaves' shares and their values.
Nodes come first and rows second, so that every look-up copies whole rows of memory, and a level
holds the nodes that are there and nothing else.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tree_bench.ensembles import Array, Ensemble


class SoftTrees(nn.Module):
    """An ensemble whose nodes pass every row on to both sides."""

    def __init__(self, trees: Ensemble, width: Array) -> None:
        """`width` is that of the gates, for each feature."""
        super().__init__()
        front = trees.roots
        leaves: list[Array] = []
        nodes: list[Array] = []
        assert not any(trees.leaf[front]), "a tree of a single leaf"
        self.levels: list[tuple[slice, Tensor, Tensor]] = []
        while len(front):
            start = sum(len(level) for level in nodes)
            nodes.append(front)
            children = np.concatenate([trees.left[front], trees.right[front]])
            ends = np.flatnonzero(trees.leaf[children])
            inner = np.flatnonzero(~trees.leaf[children])
            leaves.append(children[ends])
            span = slice(start, start + len(front))
            self.levels.append((span, torch.tensor(ends), torch.tensor(inner)))
            front = children[inner]
        order = np.concatenate(nodes)
        self.features = torch.tensor(trees.feature[order])
        slope = 1 / width[trees.feature[order]]
        self.slopes = torch.tensor(slope[:, None], dtype=torch.float32)
        self.thresholds = nn.Parameter(torch.tensor(trees.threshold[order][:, None]))
        self.values = nn.Parameter(torch.tensor(trees.value[np.concatenate(leaves)][None]))
        self.base = trees.base
        self.trees = len(trees.roots)

    def forward(self, x: Tensor) -> Tensor:
        """Rows -> one prediction each."""
        columns = x.t().contiguous()
        share = torch.ones(self.trees, len(x))
        arrived = []
        for span, ends, inner in self.levels:
            distance = self.thresholds[span] - columns[self.features[span]]
            left = share * torch.sigmoid(distance * self.slopes[span])
            both = torch.cat([left, share - left])
            arrived.append(both[ends])
            share = both[inner]
        return (self.values @ torch.cat(arrived)).t() + self.base
