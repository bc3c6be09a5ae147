"""Adam with one second moment a tensor."""

from __future__ import annotations

import numpy as np
import torch

from onnxtune.optimizers import TensorAdam


def test_a_tensor_of_one_number_moves_as_adam_moves_it() -> None:
    ours, theirs = (torch.nn.Parameter(torch.tensor([3.0])) for _ in range(2))
    first, second = TensorAdam([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    for _ in range(20):
        for value, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            (value - 1).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_number_that_few_rows_speak_of_moves_less() -> None:
    value = torch.nn.Parameter(torch.zeros(2))
    optimizer = TensorAdam([{"params": [value], "lr": 0.1}])
    value.grad = torch.tensor([1.0, 0.01])
    optimizer.step()
    step = -value.detach().numpy()
    np.testing.assert_allclose(step[0] / step[1], 100, rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.mean(step**2)), 0.1, rtol=1e-4)


def test_no_gradient_no_step() -> None:
    still, moved = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = TensorAdam([still, moved])
    moved.grad = torch.zeros(3)
    optimizer.step()
    assert (still == 1).all() and (moved == 1).all()
