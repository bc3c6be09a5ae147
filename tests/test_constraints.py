"""Numbers of standard nodes stay where they must, in training and in the written file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxtune
from onnxtune.constraints import constraint_of

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y) '


def model(body: str, values: Any, name: str = "w") -> onnx.ModelProto:
    proto = onnx.parser.parse_model(HEAD + "{" + body + "}")
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return proto


CASES = [
    ("y = Div(x, w)", [0.1, 2.0, -3.0], "positive"),
    ("y = Div(w, x)", [0.1, 2.0, -3.0], None),
    ("y = Div(x, w)", [0.1, 0.0, 3.0], None),
    ("r = Sqrt(w) y = Div(x, r)", [0.1, 2.0, 3.0], "positive"),
    ("l = Log(w) y = Add(x, l)", [0.1, 0.5, 0.4], "positive"),
    ("l = Reciprocal(w) y = Mul(x, l)", [0.1, 0.5, -0.4], "positive"),
    ("c = Identity(w) l = Log(c) y = Add(x, l)", [0.1, 0.5, 0.4], "positive"),
    ("y = Add(x, w)", [0.1, 2.0, 3.0], None),
    ("i = Cast<to = 7>(x) y = Gather(w, i)", [0.1, 0.9, 1.0], "interval"),
    ("i = Cast<to = 7>(x) y = Gather(w, i)", [0.1, 0.9, 1.1], None),
]


@pytest.mark.parametrize(("body", "values", "kind"), CASES)
def test_what_binds_an_initializer(body: str, values: Any, kind: str | None) -> None:
    found = constraint_of(model(body, values).graph, "w", np.array(values))
    assert (None if found is None else found.kind) == kind


@pytest.mark.parametrize(("body", "values", "kind"), [c for c in CASES if c[2]])
def test_it_holds_in_the_tuned_file(body: str, values: Any, kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=(200, 3)).astype(np.float32) + 0.25
    target = rng.normal(size=(200, 3)) * 50 - 20  # far from all that is allowed
    result = onnxtune.tune(
        model(body, values), x, target, init="random", lr=1.0, epochs=20, valid=(x, target)
    )
    (tensor,) = [t for t in result.model().graph.initializer if t.name == "w"]
    found = numpy_helper.to_array(tensor)
    assert not np.array_equal(found, np.float32(values))
    if kind == "positive":
        np.testing.assert_array_equal(np.sign(found), np.sign(values))
    else:
        assert found.min() >= 0 and found.max() <= 1
