"""Faults that were found once, each by a model that showed it."""

from __future__ import annotations

import copy
import threading

import numpy as np
import onnx
import pytest
import torch
from graphs import parse
from onnx import numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onnxtune.conversion import convert
from onnxtune.errors import DataError, UnsupportedError
from onnxtune.links import find_source
from onnxtune.runtime import run
from onnxtune.torch_module import to_torch
from onnxtune.tuning import tune

Array = np.ndarray


def rows(count: int = 400, width: int = 2, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_missing_values_before_a_scaler_leave_its_numbers_finite() -> None:
    X = rows(1500, 5)
    y = ((X[:, 0] + X[:, 1] + 0.5 * rows(1500, 1, 1)[:, 0]) > 0).astype(int)
    X[np.random.default_rng(2).random(1500) < 0.1, 4] = np.nan
    X[5, 3] = np.inf
    forest = RandomForestClassifier(20, max_depth=3, max_features=2, random_state=0)
    fitted = make_pipeline(StandardScaler(), forest).fit(np.where(np.isinf(X), 9, X), y)
    model = to_onnx(
        fitted, X[:1], target_opset={"": 17, "ai.onnx.ml": 3}, options={"zipmap": False}
    )
    module = to_torch(model, data=X)
    module.predict(X)["probabilities"][:, 0].sum().backward()
    for name, tensor in module.tensors().items():
        assert torch.isfinite(tensor.grad).all(), name
    result = tune(model, X, y, valid=0.3, epochs=5)
    for name, value in result.module.tensors().items():
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("estimator", [RidgeClassifier(), SGDClassifier(random_state=0)])
def test_scores_that_are_no_probabilities_are_logits(estimator: object) -> None:
    from sklearn.datasets import load_wine

    X, y = load_wine(return_X_y=True)
    X = X.astype(np.float32)
    fitted = make_pipeline(StandardScaler(), estimator).fit(X, y)
    model = to_onnx(fitted, X[:1], options={"zipmap": False})
    result = tune(model, X, y, valid=0.3, epochs=3)
    assert result.report["loss"] == "log"
    assert all(record.train > 0 for record in result.history)
    assert result.verdicts["hard"].after > 0


SIGMOIDS = """g (float[N, 2] x) => (int64[N] label, float[N, 2] p) {
    label, p = ai.onnx.ml.LinearClassifier <classlabels_ints = [0, 1],
        coefficients = [-1.0, -0.6, 1.1, 0.5], intercepts = [0.1, 0.05],
        post_transform = "LOGISTIC"> (x)
}"""


def test_two_sigmoids_that_are_not_mirrored_are_a_model_each() -> None:
    X = rows()
    y = ((X @ [1, 0.5] + rows(400, 1, 1)[:, 0]) > 0).astype(int)
    result = tune(parse(SIGMOIDS), X, y, lr=0.1)
    found = run(result.model(), {"x": X})["p"]
    assert found.max(axis=0).max() > 0.5
    assert found.min(axis=0).max() < 0.2  # each column still says no somewhere
    assert np.corrcoef(found[:, 0], found[:, 1])[0, 1] < 0


def test_a_number_that_the_prefix_reads_too_stays() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            whole = Floor (c)
            above = Greater (x, whole)
            flags = Cast <to = 1> (above)
            turned = MatMul (flags, w)
            y = Add (turned, c)
        }""",
        c=np.array([0.5, -0.5], np.float32),
        w=np.array([[1, 0.5], [-1, 1]], np.float32),
    )
    assert list(to_torch(model).tensors()) == ["w"]
    X = rows()
    y = run(model, {"x": X})["y"] + 1
    result = tune(model, X, y, valid=(X, y), lr=0.05)
    found = run(result.model(), {"x": X})["y"]
    loss = result.verdicts["hard"].after
    assert float(np.square(found - y).mean()) == pytest.approx(loss, rel=1e-3)


def test_a_lone_probability_needs_zeros_and_ones() -> None:
    model = parse(
        "g (float[N, 2] x) => (float[N, 1] y) { z = MatMul (x, w) y = Sigmoid (z) }",
        w=np.array([[1], [0.5]], np.float32),
    )
    X = rows()
    y = (X @ [1, 0.5] > 0) * 1
    assert tune(model, X, y, epochs=1).report["loss"] == "log"
    with pytest.raises(DataError, match="0 and 1"):
        tune(model, X, 2 * y - 1)


@pytest.mark.parametrize(
    "estimator", [MLPClassifier((4,), solver="lbfgs", max_iter=5000, random_state=0), GaussianNB()]
)
def test_classes_that_only_the_label_tells(estimator: object) -> None:
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    words = np.array(["setosa", "versicolor", "virginica"])[y]
    model = to_onnx(estimator.fit(X, words), X[:1], options={"zipmap": False})  # type: ignore[attr-defined]
    assert tune(model, X, words, epochs=2).report["loss"] == "log"


def test_a_value_without_rows_is_refused_by_name() -> None:
    model = parse(
        """g (float[N, 3] x) => (float[N, 3] y) {
            mean = ReduceMean <axes = [0]> (x)
            turned = MatMul (x, w)
            y = Add (turned, mean)
        }""",
        w=np.eye(3, dtype=np.float32),
    )
    X = rows(40, 3)
    with pytest.raises(UnsupportedError, match=r"'mean'.*not one entry a row"):
        tune(model, X, X)


def test_constants_that_hold_plain_numbers() -> None:
    model = parse(
        """g (float[N, 3] x) => (float[N, 3] y) {
            c = Constant <value_floats = [10.0, 20.0, 30.0]> ()
            turned = MatMul (x, w)
            y = Add (turned, c)
        }""",
        w=np.eye(3, dtype=np.float32),
    )
    X = rows(200, 3)
    y = X + np.array([10, 20, 31])
    result = tune(model, X, y, lr=0.05)
    assert set(to_torch(model).tensors()) == {"c", "w"}
    assert result.accepted
    again = run(result.model(), {"x": X})["y"]
    assert float(np.square(again - y).mean()) < 0.33


def test_node_names_that_begin_alike() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            [a] h = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 3.0]> (x)
            [slash] y = ai.onnx.ml.Scaler <offset = [0.5, 1.0], scale = [2.0, 3.0]> (h)
        }"""
    )
    model.graph.node[1].name = "a/b"
    X = rows()
    assert tune(model, X, run(model, {"x": X})["y"] + 1, lr=0.05).accepted


def test_a_copy_after_predict() -> None:
    model = parse(
        """g (float[N, 2] x) => (float[N, 2] y) {
            above = Greater (x, c)
            flags = Cast <to = 1> (above)
            y = MatMul (flags, w)
        }""",
        c=np.zeros(2, np.float32),
        w=np.eye(2, dtype=np.float32),
    )
    module = to_torch(model)
    expected = module.predict(rows())["y"]
    assert torch.equal(copy.deepcopy(module).predict(rows())["y"], expected)


def test_threads_may_make_modules_at_once() -> None:
    from onnxtune import onnx2torch_bridge

    onnx2torch_bridge.onnx2torch_convert()  # whichever came first in this process
    failed: list[BaseException] = []

    def make() -> None:
        try:
            to_torch(parse(SIGMOIDS))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_the_soft_form_is_soft_where_it_was_tuned() -> None:
    trees = """nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [0, 0, 0],
        nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.0, 0.0, 0.0],
        nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0],
        target_treeids = [0, 0], target_nodeids = [1, 2], target_ids = [0, 0],
        target_weights = [-1.0, 1.0]"""
    model = parse(
        f"""g (float[N, 1] x) => (float[N, 1] y, float[N, 1] z) {{
            y = ai.onnx.ml.TreeEnsembleRegressor <n_targets = 1, {trees}> (x)
            z = ai.onnx.ml.TreeEnsembleRegressor <n_targets = 1, {trees}> (x)
        }}"""
    )
    X = rows(300, 1)
    result = tune(model, X, 2 * np.tanh(3 * X), output="y", routing="soft", lr=0.05)
    before, after = run(model, {"x": X}), run(result.model("soft"), {"x": X})
    np.testing.assert_array_equal(before["z"], after["z"])
    assert not np.array_equal(before["y"], after["y"])


def test_a_softmax_over_anything_but_its_sum_is_no_softmax() -> None:
    body = """g (float[N, 3] x) => (float[N, 3] y) {{
        p = Softmax <axis = 1> (x)
        {size}
        y = Div (p, s)
    }}"""
    total = "s = ReduceSum <keepdims = 1> (p, axes)"
    graph = parse(body.format(size=total), axes=np.array([1])).graph
    assert find_source(graph, "y").link == "softmax"
    graph = parse(body.format(size="s = Identity (prior)"), prior=np.ones(3, np.float32)).graph
    assert find_source(graph, "y").link == "identity"


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_a_softmax_of_an_old_opset_is_tuned(opset: int) -> None:
    model = parse(
        "g (float[N, 2] x) => (float[N, 3] y) { z = MatMul (x, w) y = Softmax (z) }",
        opset,
        w=rows(2, 3),
    )
    module = to_torch(model)
    assert module.links["y"].link == "softmax"
    np.testing.assert_allclose(
        module.predict(rows())["y"].detach(), run(model, {"x": rows()})["y"], atol=1e-6
    )


def test_an_old_ir_version_is_raised_where_initializers_are_added() -> None:
    model = parse(SIGMOIDS)
    model.ir_version = 3
    hard = convert(model, form="hard")
    onnx.checker.check_model(hard)
    assert hard.ir_version == 4


def test_a_name_with_brackets_is_itself() -> None:
    model = parse("g (float[N, 2] x) => (float[N, 2] y) { y = MatMul (x, w) }")
    model.graph.node[0].input[1] = "W[0]"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.float32), "W[0]"))
    assert to_torch(model).freeze("W[0]") == ["W[0]"]


def test_numbers_of_numpy_are_numbers() -> None:
    model = parse(SIGMOIDS)
    X = rows()
    y = (X[:, 0] > 0) * 1
    tune(model, X, y, valid=np.float32(0.2), temperature=np.float32(0.2), epochs=np.int64(1))  # type: ignore[arg-type]
    tune(model, X, y, valid=[X, y], epochs=1)  # type: ignore[arg-type]


def test_what_is_said_of_outputs_stays() -> None:
    model = parse(SIGMOIDS)
    model.graph.output[1].doc_string = "the probabilities"
    assert convert(model, form="hard").graph.output[1].doc_string == "the probabilities"


def test_a_probability_in_one_column_is_no_logit() -> None:
    """The second column of a forest's probabilities, beside the label."""
    X = rows(600)
    y = ((X.sum(axis=1) + rows(600, 1, 1)[:, 0]) > 0).astype(int)
    forest = RandomForestClassifier(10, max_depth=3, random_state=0).fit(X[:300], y[:300])
    model = to_onnx(
        forest, X[:1], target_opset={"": 17, "ai.onnx.ml": 1}, options={"zipmap": False}
    )
    model.graph.node.add(
        op_type="Gather", input=["probabilities", "second"], output=["p1"], name="p1"
    )
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "second"))
    del model.graph.output[1]
    model.graph.output.append(onnx.helper.make_tensor_value_info("p1", 1, [None, 1]))
    for valid in (0.2, (X[300:450], y[300:450])):
        result = tune(model, X[:300], y[:300], valid=valid, epochs=4)  # type: ignore[arg-type]
        p = run(result.model(), {"X": X[:300]})["p1"][:, 0]
        own = -np.log(np.where(y[:300] == 1, p, 1 - p) + 1e-3).mean()
        assert result.history[-1].train == pytest.approx(own, abs=0.25)
        assert result.history[-1].train < 0.6


def test_two_products_with_one_matrix() -> None:
    body = """g (float[N, 2] a, float[N, 2] b) => (float[N, 2] y{more}) {{
        first = MatMul (a, w)
        {second} = MatMul (b, w)
        y = {last}
    }}"""
    feed = {"a": rows(20), "b": rows(20, seed=1)}
    w = np.array([[1, 2], [3, 4]], np.float32)
    joined = parse(body.format(more="", second="other", last="Add (first, other)"), w=w)
    apart = parse(body.format(more=", float[N, 2] z", second="z", last="Identity (first)"), w=w)
    for model, outputs in ((joined, None), (apart, None), (apart, "z")):
        module = to_torch(model, output=outputs)
        assert list(module.tensors()) == ["w"]
        expected = run(model, feed)
        for name, value in module.predict(feed).items():
            np.testing.assert_allclose(value.detach(), expected[name], rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 12])
def test_a_replacement_in_an_old_opset(opset: int) -> None:
    X = rows(200)
    y = (X[:, 0] > 0) * 1
    forest = RandomForestClassifier(4, max_depth=3, random_state=0).fit(X, y)
    old = {"": opset, "ai.onnx.ml": 1}
    model = to_onnx(forest, X[:1], target_opset=old, options={"zipmap": False})
    module = to_torch(model, routing="hard")
    with torch.no_grad():
        for name, tensor in module.tensors().items():
            if "leaf" in name:
                tensor.sub_(0.01)  # shares lose their sign
    expected = module.predict(X)["probabilities"].detach()
    for form in ("native", "hard"):
        found = run(module.model(form), {"X": X})["probabilities"]  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_strings_are_compared_in_a_new_opset() -> None:
    model = parse(
        """g (string[N, 1] s, float[N, 2] x) => (float[N, 1] y) {
            same = Equal (s, key)
            flag = Cast <to = 1> (same)
            all = Concat <axis = 1> (x, flag)
            y = MatMul (all, w)
        }""",
        21,
        w=rows(3, 1),
    )
    model.graph.initializer.append(
        onnx.helper.make_tensor("key", onnx.TensorProto.STRING, [1], [b"red"])
    )
    feed = {"s": np.array([["red"], ["blue"]] * 20, object), "x": rows(40)}
    found = to_torch(model).predict(feed)["y"].detach()
    np.testing.assert_allclose(found, run(model, feed)["y"], rtol=1e-5, atol=1e-6)
