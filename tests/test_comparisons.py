"""Learned thresholds: exact in hard and straight-through routing, shares of truth in soft."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from graphs import parse

from onnxtune.conversion import convert
from onnxtune.errors import UnsupportedError
from onnxtune.runtime import run
from onnxtune.torch_module import OnnxModule, to_torch
from onnxtune.tuning import tune
from rewrites.core.builder import PRIVATE_DOMAIN

RNG = np.random.default_rng(5)
ROWS = RNG.normal(size=(40, 2)).astype(np.float32)
LOW = np.array([-0.5, -0.25], np.float32)
HIGH = np.array([0.5, 0.75], np.float32)
EDGES = np.array([-0.6, 0.1, 0.7], np.float32)

BOTH = "below = Less (x, high) \n above = GreaterOrEqual (x, low)"
# Bins as skl2onnx writes them: the first edge that is not passed, behind the last one always true.
BINS = """
    column = Constant <value_ints = [0]> ()
    first = Gather <axis = 1> (x, column)
    passed = Less (first, edges)
    truths = Cast <to = 1> (passed)
    zero = Constant <value_floats = [0.0]> ()
    one = Constant <value_floats = [1.0]> ()
    zeros = Mul (first, zero)
    ones = Add (zeros, one)
    every = Concat <axis = 1> (truths, ones)
    bin = ArgMax <axis = 1> (every)
"""
CASES = {
    "cast": "y = Cast <to = 1> (below)",
    "and": "in = And (below, above) \n y = Cast <to = 1> (in)",
    "or": "out = Not (below) \n under = Not (above) \n any = Or (out, under)"
    "\n y = Cast <to = 1> (any)",
    "xor": "one = Xor (below, above) \n y = Cast <to = 1> (one)",
    "where": "in = And (below, above) \n squares = Mul (x, x) \n y = Where (in, squares, x)",
    "a branch without a number": """large = Not (below) \n logs = Log (x)
        squares = Mul (x, x) \n chosen = Where (large, logs, squares)
        y = Where (above, chosen, x)""",
    "counts": """axes = Constant <value_ints = [1]> ()
        ints = Cast <to = 7> (below) \n others = Cast <to = 7> (above)
        sums = Add (ints, others) \n three = Constant <value_ints = [3]> ()
        tripled = Mul (sums, three) \n total = ReduceSum <keepdims = 1> (tripled, axes)
        y = Cast <to = 1> (total)""",
    "chosen counts": """five = Constant <value_ints = [5]> ()
        two = Constant <value_ints = [2]> ()
        weights = Where (below, five, two) \n others = Where (above, weights, two)
        y = Cast <to = 1> (others)""",
    "shapes": """turned = Transpose (below) \n shape = Constant <value_ints = [-1, 2]> ()
        flat = Reshape (turned, shape) \n places = Constant <value_ints = [1, 0, 1]> ()
        picked = Gather <axis = 1> (flat, places) \n y = Cast <to = 1> (picked)""",
    "the other way round": "swapped = Greater (high, x) \n y = Cast <to = 1> (swapped)",
}


def model(behind: str) -> onnx.ModelProto:
    return parse(f"g (float[N, 2] x) => (float[M, K] y) {{ {BOTH} {behind} }}", low=LOW, high=HIGH)


def bins(behind: str) -> onnx.ModelProto:
    return parse(f"g (float[N, 2] x) => (float[N, K] y) {{ {BINS} {behind} }}", edges=EDGES)


ORDINAL = bins("y = Cast <to = 1> (bin)")
ONE_HOT = bins(
    """hot = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1, 2, 3]> (bin)
    flat = Constant <value_ints = [-1, 4]> () \n y = Reshape (hot, flat)"""
)
MODELS = {**{name: model(behind) for name, behind in CASES.items()},
          "bins": ORDINAL, "bins as columns": ONE_HOT}  # fmt: skip
EVERY = pytest.mark.parametrize("made", MODELS.values(), ids=MODELS)


def values(module: OnnxModule) -> torch.Tensor:
    return module.predict(ROWS)["y"]


@EVERY
@pytest.mark.parametrize("routing", ["hard", "straight-through"])
def test_values_are_exact(made: onnx.ModelProto, routing: str) -> None:
    found = values(to_torch(made, routing)).detach().numpy()
    np.testing.assert_allclose(found, run(made, {"x": ROWS})["y"], rtol=1e-6)


@EVERY
def test_soft_values_end_at_the_exact_ones(made: onnx.ModelProto) -> None:
    wanted = run(made, {"x": ROWS})["y"]
    apart = [
        np.abs(values(to_torch(made, temperature=width)).detach().numpy() - wanted).mean()
        for width in (0.3, 0.03, 1e-5)
    ]
    assert apart[0] > apart[1] > apart[2] and apart[2] < 1e-3


@EVERY
def test_soft_gradients_are_right(made: onnx.ModelProto) -> None:
    module = to_torch(made).double()
    names = list(module.tensors())
    tensors = [tensor.detach().clone().requires_grad_() for tensor in module.tensors().values()]
    inputs = [value.double() for value in module.to_tensors(module.core_inputs(ROWS))]

    def outputs(*held: torch.Tensor) -> torch.Tensor:
        return module.evaluate(inputs, dict(zip(names, held, strict=True)))["y"]

    assert outputs(*tensors).isfinite().all()
    assert torch.autograd.gradcheck(outputs, tensors, eps=1e-6, atol=1e-5)


@EVERY
def test_straight_through_has_gradients_too(made: onnx.ModelProto) -> None:
    module = to_torch(made, "straight-through")
    values(module).square().sum().backward()
    for tensor in module.tensors().values():
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any()


def test_straight_through_has_the_gradient_of_the_sigmoid() -> None:
    straight, soft = (to_torch(MODELS["and"], how) for how in ("straight-through", "soft"))
    for module in (straight, soft):
        values(module).sum().backward()
    for name, tensor in soft.tensors().items():
        torch.testing.assert_close(straight.tensors()[name].grad, tensor.grad)


def test_where_keeps_the_gradients_of_the_branch_that_is_taken() -> None:
    made = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            below = Less (x, high) \n left = Mul (x, slopes) \n y = Where (below, left, x)
        }""",
        high=HIGH,
        slopes=np.array([2.0, 3.0], np.float32),
    )
    straight, hard = (to_torch(made, how) for how in ("straight-through", "hard"))
    for module in (straight, hard):
        values(module).sum().backward()
    torch.testing.assert_close(straight.tensors()["slopes"].grad, hard.tensors()["slopes"].grad)
    assert straight.tensors()["high"].grad.any()


def test_missing_numbers_leave_the_other_gradients_alone() -> None:
    rows = ROWS.copy()
    rows[::3] = np.nan
    for name in ("and", "bins"):
        module = to_torch(MODELS[name])
        found = module.predict(rows)["y"][1]
        clean = to_torch(MODELS[name])
        np.testing.assert_allclose(found.detach(), values(clean)[1].detach())
        module.predict(rows)["y"].nan_to_num().sum().backward()
        assert all(tensor.grad.isfinite().all() for tensor in module.tensors().values())


def test_a_step_is_as_wide_as_the_rows_say() -> None:
    rows = ROWS * np.array([10.0, 1.0], np.float32)
    module = to_torch(MODELS["cast"], data=rows)
    np.testing.assert_allclose(module.learned["high"].unit, rows.std(axis=0), rtol=1e-5)
    assert module.learned["high"].group == "thresholds"


def test_what_is_tuned_without_steps_has_none() -> None:
    """A limit that is subtracted as well keeps its exact comparison, where the core holds it."""
    made = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            z = Mul (x, slopes) \n below = Less (z, high)
            apart = Sub (z, high) \n y = Where (below, apart, z)
        }""",
        high=HIGH,
        slopes=np.array([2.0, 3.0], np.float32),
    )
    module = to_torch(made)
    assert set(module.tensors()) == {"high", "slopes"}
    np.testing.assert_allclose(values(module).detach(), run(made, {"x": ROWS})["y"], rtol=1e-6)


def test_a_limit_that_is_compared_before_the_core_is_tuned() -> None:
    made = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            below = Less (x, high) \n apart = Sub (x, high) \n y = Where (below, apart, x)
        }""",
        high=HIGH,
    )
    assert set(to_torch(made).tensors()) == {"high"}


def test_a_comparison_that_decides_about_labels_alone_stays() -> None:
    made = parse(
        """g (float[N, 2] x) => (bool[N, 2] y, float[N, 2] z) {
            y = Less (x, high) \n z = Mul (x, slopes)
        }""",
        high=HIGH,
        slopes=np.array([2.0, 3.0], np.float32),
    )
    assert set(to_torch(made).tensors()) == {"slopes"}
    del made.graph.output[1]
    with pytest.raises(UnsupportedError, match="no gradient"):
        to_torch(made)


def test_weights_before_the_only_comparison_are_tuned() -> None:
    """A hinge: a class or none, by the sign of a score."""
    made = parse(
        """g (float[N, 2] x) => (float[N, 1] y) {
            score = MatMul (x, weights) \n above = Greater (score, zero)
            y = Where (above, one, zero)
        }""",
        weights=np.array([[1.0], [-0.5]], np.float32),
        zero=np.zeros(1, np.float32),
        one=np.ones(1, np.float32),
    )
    soft, straight = (to_torch(made, how) for how in ("soft", "straight-through"))
    assert set(soft.tensors()) == {"weights"}
    np.testing.assert_array_equal(values(straight).detach(), run(made, {"x": ROWS})["y"])
    for module in (soft, straight):
        values(module).sum().backward()
        assert module.tensors()["weights"].grad.all()


def test_what_decides_about_places_stays_exact() -> None:
    made = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            below = Less (x, high) \n first = Constant <value_ints = [0]> ()
            second = Constant <value_ints = [1]> () \n place = Where (below, first, second)
            y = Gather (table, place)
        }""",
        high=HIGH,
        table=np.array([2.0, 3.0], np.float32),
    )
    assert set(to_torch(made).tensors()) == {"table"}


@pytest.mark.parametrize("form", ["native", "hard", "soft"])
def test_files_hold_exact_comparisons(form: str) -> None:
    module = to_torch(ONE_HOT)
    module.load_tensors({"edges": EDGES + 0.05})
    written = module.model(form)
    moved = onnx.ModelProto()
    moved.CopyFrom(ONE_HOT)
    edges = next(t for t in moved.graph.initializer if t.name == "edges")
    edges.CopyFrom(onnx.numpy_helper.from_array(EDGES + np.float32(0.05), "edges"))
    assert PRIVATE_DOMAIN not in {node.domain for node in written.graph.node}
    np.testing.assert_array_equal(run(written, {"x": ROWS})["y"], run(moved, {"x": ROWS})["y"])


def test_soft_files_are_exact_here() -> None:
    written = convert(ONE_HOT, form="soft")
    np.testing.assert_array_equal(run(written, {"x": ROWS})["y"], run(ONE_HOT, {"x": ROWS})["y"])


def test_edges_are_tuned() -> None:
    """Bins in front of a linear model, that begin in the wrong places."""
    made = bins(
        """hot = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1, 2, 3]> (bin)
        flat = Constant <value_ints = [-1, 4]> () \n columns = Reshape (hot, flat)
        y = MatMul (columns, weights)"""
    )
    weights = np.array([[0.0], [1.0], [3.0], [6.0]], np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    rows = np.random.default_rng(0).normal(size=(900, 2)).astype(np.float32)
    wanted = weights[np.searchsorted(EDGES + np.array([0.2, -0.2, 0.3]), rows[:, 0])].ravel()
    result = tune(made, rows, wanted, epochs=8, freeze=["weights"], seed=1)
    assert result.accepted
    found = run(result.model("native"), {"x": rows})["y"].ravel()
    before = run(made, {"x": rows})["y"].ravel()
    assert np.mean((found - wanted) ** 2) < 0.3 * np.mean((before - wanted) ** 2)
