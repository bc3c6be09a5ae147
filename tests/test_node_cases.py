"""ONNX's own cases of single nodes, in torch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from onnxtune.errors import UnsupportedError
from onnxtune.onnx2torch_bridge import Values, to_module
from onnxtune.torch_ops import CONVERTERS

# What torch lacks: wide unsigned integers, floats of 8 bits, extremes of nothing, padding of
# integers with their lowest. A Scan of opset 8 means something else.
KNOWN = ("uint16", "uint32", "uint64", "FLOAT8", "empty_set", "scan_sum", "bitwise_not_3d",
         "maxpool_2d_uint8")  # fmt: skip


def arrays(tensors: list[object]) -> list[np.ndarray] | None:
    """None for what is no tensor of numbers."""
    if not all(isinstance(tensor, onnx.TensorProto | np.ndarray) for tensor in tensors):
        return None
    found = [
        tensor if isinstance(tensor, np.ndarray) else numpy_helper.to_array(tensor)
        for tensor in tensors
    ]
    return found if all(array.dtype.kind in "fiub" for array in found) else None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # making the cases divides by 0, and more
def test_onnx_s_own_cases() -> None:
    counts: Counter[str] = Counter()
    wrong = []
    for each in collect_testcases(None):
        if each.model is None or len(each.model.graph.node) != 1:
            continue
        node = each.model.graph.node[0]
        if node.op_type not in CONVERTERS or node.domain:
            continue
        given, expected = (arrays(list(data)) for data in each.data_sets[0])
        if given is None or expected is None or any(word in each.name for word in KNOWN):
            continue
        try:
            module = Values(to_module(onnx.ModelProto.FromString(each.model.SerializeToString())))
        except UnsupportedError:
            counts["refused"] += 1
            continue
        found = module(*(torch.from_numpy(np.array(array)) for array in given))
        for got, wanted in zip(found, expected, strict=True):
            same = got.numpy().dtype == wanted.dtype and tuple(got.shape) == wanted.shape
            if not same or not np.allclose(got, wanted, rtol=1e-3, atol=1e-5, equal_nan=True):
                wrong.append(each.name)
        counts["compared"] += 1
    assert not wrong
    assert counts["compared"] > 600 and counts["refused"] < 30, counts
