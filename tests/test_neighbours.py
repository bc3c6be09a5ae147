"""Nearest neighbours: exact in hard routing, shares of all candidates in soft routing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from graphs import parse

from onnxtune.model import load
from onnxtune.neighbours import find_neighbours
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from onnxtune.torch_module import OnnxModule, to_torch
from rewrites.core.rewrite import Routing

RNG = np.random.default_rng(3)
TRAINED = RNG.normal(size=(12, 2)).astype(np.float32)
TARGETS = RNG.normal(size=12).astype(np.float32)
LABELS = np.array([0, 1, 2] * 4)
ROWS = RNG.normal(size=(20, 2)).astype(np.float32)

DISTANCES = """
    sames, rows = Scan <num_scan_inputs = 1, body = step (float[M, F] all, float[F] row)
        => (float[M, F] same, float[M] far) {
            same = Identity (all)
            apart = Sub (all, row)
            squares = Mul (apart, apart)
            axes = Constant <value_ints = [1]> ()
            summed = ReduceSum <keepdims = 0> (squares, axes)
            far = Sqrt (summed)
        }> (trained, x)
    k = Constant <value_ints = [3]> ()
    near, places = TopK <largest = 0> (rows, k)
"""
BY_CDIST = """
    rows = com.microsoft.CDist <metric = "euclidean"> (x, trained)
    k = Constant <value_ints = [3]> ()
    near, places = TopK <largest = 0> (rows, k)
"""
MEAN = """
    found = Gather (targets, places)
    axis = Constant <value_ints = [1]> ()
    y = ReduceMean <axes = [1]> (found)
"""
WEIGHTED = """
    found = Gather (targets, places)
    closeness = Reciprocal (near)
    axis = Constant <value_ints = [1]> ()
    total = ReduceSum (closeness, axis)
    shares = Div (closeness, total)
    products = Mul (shares, found)
    y = ReduceSum (products, axis)
"""
VOTES = """
    flat_shape = Constant <value_ints = [-1]> ()
    flat = Reshape (places, flat_shape)
    found = Gather (labels, flat)
    back = Constant <value_ints = [-1, 3]> ()
    names = Reshape (found, back)
    one = Constant <value_int = 1> ()
    two = Constant <value_int = 2> ()
    is_one = Equal (names, one)
    is_two = Equal (names, two)
    ones = Cast <to = 1> (is_one)
    twos = Cast <to = 1> (is_two)
    axis = Constant <value_ints = [1]> ()
    share_one = ReduceSum (ones, axis)
    share_two = ReduceSum (twos, axis)
    y = Concat <axis = 1> (share_one, share_two)
"""


def model(distances: str, behind: str, trained: np.ndarray = TRAINED) -> onnx.ModelProto:
    made = parse(
        f"g (float[N, 2] x) => (float[N, C] y) {{ {distances} {behind} }}",
        trained=trained,
        targets=TARGETS,
        labels=LABELS,
    )
    made.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return made


CASES = [(d, b) for d in (DISTANCES, BY_CDIST) for b in (MEAN, WEIGHTED, VOTES)]
NAMES = [f"{d}-{b}" for d in ("scan", "cdist") for b in ("mean", "weighted", "votes")]
EVERY = pytest.mark.parametrize(("distances", "behind"), CASES, ids=NAMES)


def values(module: OnnxModule) -> torch.Tensor:
    return module.predict(ROWS)["y"]


@EVERY
@pytest.mark.parametrize("routing", ["hard", "straight-through"])
def test_the_nearest_are_exact(distances: str, behind: str, routing: str) -> None:
    made = model(distances, behind)
    found = values(to_torch(made, routing)).detach().numpy()
    np.testing.assert_allclose(found, run(made, {"x": ROWS})["y"], rtol=1e-4, atol=1e-5)


@EVERY
def test_soft_shares_end_at_the_nearest(distances: str, behind: str) -> None:
    made = model(distances, behind)
    wanted = run(made, {"x": ROWS})["y"]
    apart = [
        np.abs(values(to_torch(made, temperature=width)).detach().numpy() - wanted).mean()
        for width in (0.3, 0.03, 0.0003)
    ]
    assert apart[0] > apart[1] > apart[2] and apart[2] < 0.02 * np.abs(wanted).mean()


@EVERY
def test_the_trained_rows_are_tuned_with_right_gradients(distances: str, behind: str) -> None:
    check_gradients(model(distances, behind), {"trained"})


def check_gradients(
    made: onnx.ModelProto, names_of_some: set[str], rows: np.ndarray = ROWS
) -> None:
    module = to_torch(made, "soft").double()
    assert names_of_some <= set(module.tensors())
    inputs = module.to_tensors(module.core_inputs(rows))
    inputs = [value.double() for value in inputs]
    tensors = [tensor.detach().clone().requires_grad_() for tensor in module.tensors().values()]
    names = list(module.tensors())

    def outputs(*held: torch.Tensor) -> torch.Tensor:
        return module.evaluate(inputs, dict(zip(names, held, strict=True)))["y"]

    assert torch.autograd.gradcheck(outputs, tensors, eps=1e-6, atol=1e-5)


def test_straight_through_has_the_gradient_of_the_nearest_for_what_is_looked_up() -> None:
    module = to_torch(model(DISTANCES, MEAN), "straight-through")
    values(module).sum().backward()
    exact = to_torch(model(DISTANCES, MEAN), "hard")
    values(exact).sum().backward()
    torch.testing.assert_close(module.tensors()["targets"].grad, exact.tensors()["targets"].grad)
    assert module.tensors()["trained"].grad.abs().max() > 0
    assert exact.tensors()["trained"].grad is None or not exact.tensors()["trained"].grad.any()


def test_each_number_gets_the_shares_of_its_own_place() -> None:
    """Behind a transpose and a table of two columns, too."""
    made = parse(
        """g (float[N, 4] x) => (float[K, N, 2] y) {
            k = Constant <value_ints = [2]> ()
            near, places = TopK (x, k)
            turned = Transpose (places)
            y = Gather (table, turned)
        }""",
        table=RNG.normal(size=(4, 2)).astype(np.float32),
    )
    rows = RNG.normal(size=(5, 4)).astype(np.float32)
    found = to_torch(made, temperature=1e-4).predict(rows)["y"].detach().numpy()
    np.testing.assert_allclose(found, run(made, {"x": rows})["y"], rtol=1e-4, atol=1e-4)


def test_places_that_decide_about_labels_alone_are_no_neighbours() -> None:
    made = parse(
        """g (float[N, 4] x) => (int64[N, 2] label) {
            k = Constant <value_ints = [2]> ()
            near, places = TopK (x, k)
            label = Gather (labels, places)
        }""",
        labels=LABELS[:4],
    )
    assert find_neighbours(made.graph) == []


VOTE = """g (float[N, 2] x) => (float[N, C] y) {
    one = MatMul (x, first)
    two = MatMul (x, second)
    a = ArgMax <axis = 1, keepdims = 0> (one)
    b = ArgMin <axis = -1> (two)
    none = Constant <value_int = 0> ()
    last = Constant <value_int = 2> ()
    a_last = Equal (a, last)
    b_none = Equal (b, none)
    a_vote = Cast <to = 1> (a_last)
    b_vote = Cast <to = 1> (b_none)
    back = Constant <value_ints = [-1, 1]> ()
    a_column = Reshape (a_vote, back)
    y = Concat <axis = 1> (a_column, b_vote)
}"""
FIRST, SECOND = (RNG.normal(size=(2, 3)).astype(np.float32) for _ in range(2))


def test_votes_have_shares_too() -> None:
    made = parse(VOTE, first=FIRST, second=SECOND)
    wanted = run(made, {"x": ROWS})["y"]
    for routing in ("hard", "straight-through"):
        found = values(to_torch(made, routing)).detach().numpy()
        np.testing.assert_array_equal(found, wanted)
    sharp = values(to_torch(made, temperature=1e-4)).detach().numpy()
    np.testing.assert_allclose(sharp, wanted, atol=0.01)
    soft = to_torch(made, temperature=1.0)
    values(soft).sum().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in soft.tensors().values())


def test_a_label_stays_a_label_as_a_float() -> None:
    """It is no second output to choose from."""
    made = parse(
        """g (float[N, 2] x) => (float[N, 3] y, float[N] label) {
            y = MatMul (x, first)
            best = ArgMax <axis = 1, keepdims = 0> (y)
            label = Cast <to = 1> (best)
        }""",
        first=FIRST,
    )
    assert list(to_torch(made).predict(ROWS)) == ["y"]
    assert find_neighbours(made.graph) == []


def test_places_that_only_comparisons_follow_stay_exact() -> None:
    """Shares would bring no gradient, but move what is compared."""
    made = parse(
        """g (float[N, 2] x) => (float[N, 3] y) {
            scores = MatMul (x, first)
            k = Constant <value_ints = [3]> ()
            near, places = TopK (scores, k)
            weights = Gather (second, places)
            known = Constant <value_float = 0.4> ()
            same = Equal (weights, known)
            y = Where (same, scores, near)
        }""",
        first=FIRST,
        second=np.array([0.0, 0.4, 0.9], np.float32),
    )
    soft = values(to_torch(made, temperature=1.0)).detach().numpy()
    np.testing.assert_allclose(soft, run(made, {"x": ROWS})["y"], rtol=1e-5)


def test_places_among_whole_numbers_stay_exact() -> None:
    made = parse(
        """g (float[N, 2] x) => (float[N, 3] y, float[N, 3] scores) {
            scores = MatMul (x, first)
            whole = Cast <to = 7> (scores)
            best = ArgMax <axis = 1> (whole)
            k = Constant <value_ints = [2]> ()
            top, places = TopK (whole, k)
            none = Constant <value_int = 0> ()
            is_none = Equal (best, none)
            vote = Cast <to = 1> (is_none)
            found = Gather (second, places)
            y = Concat <axis = 1> (vote, found)
        }""",
        first=FIRST * 5,
        second=np.array([0.0, 0.4, 0.9], np.float32),
    )
    assert find_neighbours(prepare(load(made)).proto.graph) == []
    found = to_torch(made, temperature=1.0).predict(ROWS)["y"].detach().numpy()
    np.testing.assert_array_equal(found, run(made, {"x": ROWS})["y"])


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_distances_far_from_the_origin_have_right_gradients(metric: str) -> None:
    made = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] rows = {{1000.5, 999.5, 1001.0, 1000.0}}>
        {{ y = com.microsoft.CDist <metric = "{metric}"> (x, rows) }}"""
    )
    given = np.round(1000 + ROWS / 4, 3)
    (rows,) = (module := to_torch(made)).tensors().values()
    module.predict(given)["y"].sum().backward()
    apart = given[:, None].astype(np.float64) - rows.detach().numpy()
    far = np.linalg.norm(apart, axis=-1, keepdims=True) if metric == "euclidean" else 0.5
    np.testing.assert_allclose(rows.grad, -(apart / far).sum(0), rtol=1e-4, atol=1e-4)


AGREEMENT = """g (float[N, 2] x) => (float[N, C] y) {
    one = MatMul (x, first)
    two = MatMul (x, second)
    a = ArgMax <axis = 1, keepdims = 1> (one)
    b = ArgMin <axis = 1, keepdims = 1> (two)
    same = Equal (a, b)
    y = Cast <to = 1> (same)
}"""


@pytest.mark.parametrize("routing", ["soft", "straight-through"])
def test_two_places_that_meet_have_shares_both(routing: Routing) -> None:
    made = parse(AGREEMENT, first=FIRST, second=SECOND)
    module = to_torch(made, routing, temperature=1.0)
    found = values(module)
    found.sum().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in module.tensors().values())
    if routing == "straight-through":
        np.testing.assert_array_equal(found.detach(), run(made, {"x": ROWS})["y"])
        return
    # The chance that two places are the same is the sum of products of their shares.
    best, least = (
        torch.softmax(-(score.amax(1, True) - score) / unit, 1)
        for score, unit in (
            (score, (score.amax(1, True) - score).mean(1, True))
            for score in (torch.from_numpy(ROWS @ FIRST), torch.from_numpy(-ROWS @ SECOND))
        )
    )
    wanted = (best * least).sum(1, keepdim=True)
    np.testing.assert_allclose(found.detach(), wanted, rtol=5e-3)  # the unit is a little larger


@pytest.mark.parametrize("routing", ["soft", "straight-through", "hard"])
def test_votes_through_an_encoder_have_shares(routing: Routing) -> None:
    made = parse(
        """g (float[N, 2] x) => (float[N, 3] y) {
            scores = MatMul (x, first)
            best = ArgMax <axis = 1, keepdims = 0> (scores)
            hot = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1, 2]> (best)
            y = Mul (hot, weights)
        }""",
        first=FIRST,
        weights=np.array([2.0, 3.0, 4.0], np.float32),
    )
    module = to_torch(made, routing, temperature=1.0)
    assert list(module.tensors()) == ["first", "weights"]
    found = values(module)
    if routing != "soft":
        np.testing.assert_array_equal(found.detach(), run(made, {"x": ROWS})["y"])
    if routing != "hard":
        found.sum().backward()
        assert all(tensor.grad.abs().max() > 0 for tensor in module.tensors().values())


def test_an_isotonic_calibrator_passes_gradients_on() -> None:
    """It looks up the float of the nearest step; by ArgMax that would be a label."""
    text = """g (float[N, 2] x) => (float[N, 1] y) {
        score = MatMul (x, first)
        apart = Sub (score, steps)
        distance = Abs (apart)
        nearest = ArgMin <axis = 1> (distance)
        found = ai.onnx.ml.ArrayFeatureExtractor (heights, nearest)
        shape = Constant <value_ints = [-1, 1]> ()
        y = Reshape (found, shape)
    }"""
    steps = np.array([-2.0, -0.5, 0.4, 1.5], np.float32)
    made = parse(text, first=FIRST[:, :1], steps=steps, heights=np.square(steps))
    check_gradients(made, {"first", "steps", "heights"})
    hard = values(to_torch(made, "hard")).detach().numpy()
    np.testing.assert_array_equal(hard, run(made, {"x": ROWS})["y"])
    assert find_neighbours(parse(text.replace("ArgMin", "ArgMax")).graph) == []


LEAF = """g (float[N, 2] x) => (float[2, N, 2] y) {
    leaf, unused = ai.onnx.ml.TreeEnsembleClassifier <nodes_treeids = [0, 0, 0, 0, 0],
        nodes_nodeids = [0, 1, 2, 3, 4], nodes_featureids = [0, 0, 1, 0, 0],
        nodes_modes = ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values = [0.1, 0.0, -0.2, 0.0, 0.0], nodes_truenodeids = [1, 0, 3, 0, 0],
        nodes_falsenodeids = [2, 0, 4, 0, 0], class_treeids = [0, 0, 0],
        class_nodeids = [1, 3, 4], class_ids = [1, 3, 4], class_weights = [1.0, 1.0, 1.0],
        classlabels_int64s = [0, 1, 2, 3, 4], post_transform = "NONE"> (x)
    row = Constant <value_ints = [1, -1]> ()
    places = Reshape (leaf, row)
    counts = ai.onnx.ml.ArrayFeatureExtractor (table, places)
    y = Transpose <perm = [0, 2, 1]> (counts)
}"""


def test_the_leaf_of_a_tree_looks_up_several_outputs() -> None:
    """As scikit-learn's forests of several outputs are exported."""
    table = RNG.uniform(size=(2, 2, 5)).astype(np.float32)
    made = parse(LEAF, table=table)
    # Rows on a threshold, where both leaves are as likely.
    rows = np.vstack([ROWS, [[0.1, 0.0], [0.5, -0.2]]]).astype(np.float32)
    hard = to_torch(made, "hard").predict(rows)["y"].detach().numpy()
    np.testing.assert_array_equal(hard, run(made, {"x": rows})["y"])
    check_gradients(made, {"table"}, rows)
    names = {name.rpartition("/")[2] for name in to_torch(made).tensors()}
    assert names == {"thresholds", "leaf_values", "table"}


def test_votes_between_equal_scores_have_gradients() -> None:
    check_gradients(
        parse(VOTE, first=FIRST, second=SECOND), {"first"}, np.zeros((2, 2), np.float32)
    )


def test_of_equal_trained_rows_either_is_the_nearer() -> None:
    """The gradient of a row is that of one side of the kink, and not something between."""
    trained = np.array([[0, 0], [0, 0], [1, 2], [1, 2], [3, 1]], np.float32)
    module = to_torch(model(DISTANCES, MEAN, np.vstack([trained, TRAINED[5:]]))).double()
    (rows,) = (value.double() for value in module.to_tensors(module.core_inputs(ROWS[:4])))
    held = module.tensors()["trained"]

    def answers() -> torch.Tensor:
        return module(rows)["y"].reshape(-1)

    gradients = [torch.autograd.grad(answer, held, retain_graph=True)[0] for answer in answers()]
    with torch.no_grad():
        middle = answers()
        for place in np.ndindex(4, 2):
            before = held[place].item()
            slopes = []
            for step in (1e-6, -1e-6):
                held[place] = before + step
                slopes.append((answers() - middle) / step)
            held[place] = before
            gradient = torch.stack([each[place] for each in gradients])
            apart = torch.stack([(gradient - slope).abs() for slope in slopes])
            assert apart.amin(0).max() < 1e-4
