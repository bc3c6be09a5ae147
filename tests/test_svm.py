"""Support vector machines of scikit-learn: standard operators against onnxruntime's own kernels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import parse
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

import onnxtune
from onnxtune.classes import class_labels
from onnxtune.conversion import convert
from onnxtune.export import native
from onnxtune.learned import node_tensors
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from onnxtune.sampling import sample
from onnxtune.targets import labels_of
from onnxtune.torch_module import to_torch
from rewrites.errors import OnnxTuneError

# skl2onnx reads attributes that scikit-learn will drop, and SVC(probability=True) will go too.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

KERNELS = ("linear", "poly", "rbf", "sigmoid")
DATA = {"two": load_breast_cancer, "three": load_iris, "numbers": load_diabetes}
WORDS = np.array(["setosa", "versicolor", "virginica"])


@cache
def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = DATA[name](return_X_y=True)
    return X.astype(np.float32), y


def classifiers() -> dict[str, tuple[Any, str]]:
    made: dict[str, tuple[Any, str]] = {}
    for kernel in KERNELS:
        for data in ("two", "three"):
            for chances in (False, True):
                made[f"SVC, {kernel}, {data}, {'chances' if chances else 'scores'}"] = (
                    SVC(
                        kernel=kernel,
                        probability=chances,
                        decision_function_shape="ovo",
                        random_state=0,
                    ),
                    data,
                )
    made["NuSVC, chances"] = NuSVC(nu=0.2, probability=True, random_state=0), "three"
    made["NuSVC, scores"] = NuSVC(nu=0.2, decision_function_shape="ovo"), "two"
    made["SVC, fifth powers"] = SVC(kernel="poly", degree=5, coef0=1.0), "two"
    made["SVC, narrow and stiff"] = SVC(C=1000, gamma=1.0, probability=True, random_state=0), "two"
    return made


def regressors() -> dict[str, tuple[Any, str]]:
    made: dict[str, tuple[Any, str]] = {}
    for kernel in KERNELS:
        made[f"SVR, {kernel}"] = SVR(kernel=kernel), "numbers"
        made[f"NuSVR, {kernel}"] = NuSVR(kernel=kernel, C=10.0), "numbers"
    for kernel in ("poly", "rbf", "sigmoid"):
        made[f"OneClassSVM, {kernel}"] = OneClassSVM(kernel=kernel), "two"
    return made


MACHINES = classifiers() | regressors()


@cache
def model_of(name: str, zipmap: bool = False, words: bool = False) -> onnx.ModelProto:
    estimator, data = MACHINES[name]
    X, y = table(data)
    fitted = make_pipeline(StandardScaler(), estimator).fit(X, WORDS[y] if words else y)
    options = {"zipmap": zipmap} if isinstance(estimator, SVC | NuSVC) else None
    return to_onnx(fitted, X[:1], options=options)


def rows_of(name: str, count: int = 2000) -> np.ndarray:
    """Rows between those of the table, and some far away from all of them."""
    X, _ = table(MACHINES[name][1])
    random = np.random.default_rng(0)
    rows = X[random.integers(0, len(X), count)]
    rows += random.normal(size=rows.shape) * 0.3 * X.std(axis=0)
    rows[:5] *= 50
    return rows.astype(np.float32)


def floats(model: onnx.ModelProto) -> list[str]:
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return [o.name for o in model.graph.output if o.type.tensor_type.elem_type in kinds]


def assert_close(expected: np.ndarray, found: np.ndarray, tolerance: float = 1e-5) -> None:
    wanted = np.asarray(expected, np.float64)
    size = np.sqrt(np.mean(np.square(wanted[5:])))
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("name", MACHINES)
def test_the_hard_form_equals_onnxruntime(name: str) -> None:
    model = model_of(name)
    hard = convert(model, form="hard")
    assert {node.domain for node in hard.graph.node} == {""}
    rows = rows_of(name)
    expected, found = run(model, {"X": rows}), run(hard, {"X": rows})
    for output, values in expected.items():
        if output in floats(model):
            # One class is a small difference of large sums, which the kernel itself adds in floats.
            assert_close(values, found[output], 5e-5 if name.startswith("One") else 1e-5)
        else:
            np.testing.assert_array_equal(found[output], values)


@pytest.mark.parametrize("name", MACHINES)
def test_the_torch_module_equals_onnxruntime(name: str) -> None:
    model, rows = model_of(name), rows_of(name, 300)
    expected = run(model, {"X": rows})
    found = onnxtune.to_torch(model).predict(rows)
    assert found
    for output, values in found.items():
        tolerance = 1e-4 if name.startswith("One") else 2e-5
        assert_close(expected[output], values.detach().numpy(), tolerance)


@pytest.mark.parametrize("name", ["SVC, rbf, three, scores", "SVC, rbf, three, chances"])
@pytest.mark.parametrize("zipmap", [False, True])
def test_labels_of_words(name: str, zipmap: bool) -> None:
    model, rows = model_of(name, zipmap, True), rows_of(name)
    expected, found = run(model, {"X": rows}), run(convert(model, form="hard"), {"X": rows})
    label = model.graph.output[0].name
    assert set(expected[label]) == set(WORDS)
    np.testing.assert_array_equal(expected[label], found[label])


@pytest.mark.parametrize("name", MACHINES)
def test_the_way_back_is_the_identity(name: str) -> None:
    model = model_of(name)
    prepared = prepare(load(model))
    tensors = {
        key: tensor.value
        for node in prepared.proto.graph.node
        for key, tensor in node_tensors(prepared, node).items()
    }
    written = native(prepared, tensors)
    assert written.proto.SerializeToString() == model.SerializeToString()
    assert (written.changed, written.replaced) == ({}, {})


@pytest.mark.parametrize(
    "name", ["SVC, rbf, three, chances", "SVC, poly, two, chances", "SVR, rbf"]
)
def test_tuned_numbers_arrive_in_the_native_form(name: str) -> None:
    module, rows = to_torch(model_of(name)), rows_of(name, 200)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.tensors().values():
            tensor *= 1 + 0.05 * torch.randn(tensor.shape, generator=random)
    written = module.model()
    assert [node.op_type for node in written.graph.node] == [
        node.op_type for node in model_of(name).graph.node
    ]
    expected = module.predict(rows)
    for form in ("native", "hard", "soft"):
        found = run(module.model(form), {"X": rows})
        for output, values in expected.items():
            assert_close(values.detach().numpy(), found[output], 2e-5)


class Reference:
    """A Scaler and a machine with support vectors in numpy, all in doubles, class by class."""

    def __init__(self, model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type.startswith("SVM"))
        held = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.kernel = held["kernel_type"].decode()
        self.coef0, self.degree = held["kernel_params"][1:]
        self.counts = held.get("vectors_per_class")

    def __call__(self, tensors: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Learned tensors by role -> the outputs."""
        x = (rows.astype(np.float64) - tensors["offset"]) * tensors["scale"]
        kernels = self.kernels(x, tensors)
        if self.counts is None:
            return kernels @ tensors["coefficients"].T + tensors["rho"]
        classes, ends = len(self.counts), np.cumsum([0, *self.counts])
        scores = {}
        for i in range(classes):
            for j in range(i + 1, classes):
                own, other = slice(*ends[i : i + 2]), slice(*ends[j : j + 2])
                scores[i, j] = (
                    kernels[:, own] @ tensors["coefficients"][j - 1, own]
                    + kernels[:, other] @ tensors["coefficients"][i, other]
                    + tensors["rho"][len(scores)]
                )
        if "prob_a" not in tensors:
            one = scores[0, 1]
            listed = [-one, one] if classes == 2 else list(scores.values())
            return np.stack(listed, axis=1)
        chances = np.zeros((len(rows), classes, classes))
        for number, ((i, j), score) in enumerate(scores.items()):
            scaled = tensors["prob_a"][number] * score + tensors["prob_b"][number]
            chances[:, i, j] = np.clip(1 / (1 + np.exp(scaled)), 1e-7, 1 - 1e-7)
            chances[:, j, i] = 1 - chances[:, i, j]
        return np.array([coupled(chance) for chance in chances])

    def kernels(self, x: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
        vectors = tensors["support_vectors"]
        if self.kernel == "LINEAR":
            return x @ vectors.T
        if self.kernel == "RBF":
            return np.exp(-tensors["gamma"] * ((x[:, None] - vectors) ** 2).sum(axis=2))
        inner = tensors["gamma"] * (x @ vectors.T) + self.coef0
        return np.tanh(inner) if self.kernel == "SIGMOID" else inner**self.degree


def coupled(chance: np.ndarray) -> np.ndarray:
    """Wu, Lin and Weng's second method, by the kernel's stopping rule: [K, K] -> [K]."""
    classes = len(chance)
    matrix = -chance * chance.T
    np.fill_diagonal(matrix, (chance**2).sum(axis=0))
    p = np.full(classes, 1 / classes)
    for _ in range(100):
        slope = matrix @ p
        if np.abs(slope - p @ slope).max() < 0.005 / classes:
            break
        for i in range(classes):
            slope = matrix @ p
            p[i] += (p @ slope - slope[i]) / matrix[i, i]
            p /= p.sum()
    return p


def weights_for(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


GRADIENTS = [name for name in MACHINES if name.startswith("SVC") and "stiff" not in name] + [
    "SVR, rbf",
    "SVR, poly",
    "NuSVR, sigmoid",
]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_differences(name: str) -> None:
    rows, model = rows_of(name, 60)[5:], model_of(name)
    module, reference = to_torch(model), Reference(model)
    (found,) = module.predict(rows).values()
    values = {
        key.split("/")[1]: tensor.detach().numpy().astype(np.float64)
        for key, tensor in module.tensors().items()
    }
    weights = weights_for(tuple(found.shape))
    assert_close(reference(values, rows), found.detach().numpy(), 2e-5)
    (found * torch.from_numpy(weights)).sum().backward()
    random = np.random.default_rng(0)
    for key, tensor in module.tensors().items():
        gradient, role = tensor.grad.numpy().ravel(), key.split("/")[1]
        assert np.isfinite(gradient).all() and np.any(gradient), key
        largest = int(np.abs(gradient).argmax())
        for at in {largest, int(random.integers(len(gradient)))}:
            step = 1e-5 * max(1e-2, abs(values[role].ravel()[at]))
            totals = []
            for sign in (1, -1):
                moved = {name: value.copy() for name, value in values.items()}
                moved[role].ravel()[at] += sign * step
                totals.append((reference(moved, rows) * weights).sum())
            slope = (totals[0] - totals[1]) / (2 * step)
            tolerance = 1e-3 * np.abs(gradient).max()
            assert abs(gradient[at] - slope) <= tolerance, (key, at, gradient[at], slope)


@pytest.mark.parametrize("name", ["SVC, rbf, three, chances", "SVR, poly"])
def test_compiles_as_one_graph(name: str) -> None:
    torch._dynamo.reset()
    module, rows = to_torch(model_of(name)), rows_of(name, 20)
    inputs = module.to_tensors(module.core_inputs(rows))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for output, values in compiled(*inputs).items():
        torch.testing.assert_close(values, module(*inputs)[output])


def test_one_class_is_a_step_with_the_gradient_of_a_smooth_one() -> None:
    model = parse(
        """g (float[N, 1] x) => (float[N, 1] y) {
            [machine] y = ai.onnx.ml.SVMRegressor <n_supports = 0, coefficients = [2.0],
                rho = [-1.0], kernel_params = [0.0, 0.0, 0.0], one_class = 1> (x)
        }"""
    )
    module, x = to_torch(model), torch.tensor([[-1.0], [0.5], [0.75], [3.0]])
    y = module(x)["y"]
    assert y.flatten().tolist() == [-1, -1, 1, 1]
    y.sum().backward()
    width = float(module.learned["machine/rho"].unit[0])
    slope = (1 - torch.tanh((2 * x - 1) / width) ** 2) / width
    found = module.tensors()["machine/rho"].grad
    torch.testing.assert_close(found, slope.sum().reshape(1))


def test_chances_stop_where_those_of_the_kernel_stop() -> None:
    """The kernel goes round the classes until its error is small, rows for themselves."""
    pairs = 6
    random = np.random.default_rng(0)
    rows = random.normal(size=(20_000, pairs)) * random.choice([0.5, 2, 8], size=(20_000, 1))
    # Vector number p is in direction p; each pair reads the one that is its own.
    weights = np.zeros((3, pairs), np.float32)
    weights[0, [0, 3, 4, 5]], weights[1, [1, 2]] = 1.0, (0.7, -0.4)
    text = ", ".join(map(str, weights.ravel()))
    model = parse(
        f"""g (float[N, 6] x) => (int64[N] label, float[N, 4] p) {{
            [machine] label, p = ai.onnx.ml.SVMClassifier <classlabels_ints = [0, 1, 2, 3],
                kernel_type = "LINEAR", kernel_params = [0.0, 0.0, 0.0],
                coefficients = [{text}], vectors_per_class = [1, 2, 2, 1],
                support_vectors = [{", ".join(map(str, np.eye(6).ravel()))}],
                rho = [0.1, 0.2, 0.3, -0.4, 0.0, -0.2],
                prob_a = [-1.0, -2.0, -0.5, -1.5, -3.0, -1.0],
                prob_b = [0.0, 0.1, -0.3, 0.2, 0.0, 0.5]> (x)
        }}"""
    )
    feed = {"x": rows.astype(np.float32)}
    expected, found = run(model, feed), run(convert(model, form="hard"), feed)
    np.testing.assert_array_equal(found["label"], expected["label"])
    wrong = np.abs(found["p"] - expected["p"]).max(axis=1) > 1e-5
    # A row whose error is the limit itself, up to rounding, may go round once more.
    assert wrong.sum() <= 2


@pytest.mark.parametrize("link", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
@pytest.mark.parametrize("classes", [2, 3])
def test_links_of_chances(link: str, classes: int) -> None:
    name = f"SVC, rbf, {'two' if classes == 2 else 'three'}, chances"
    model = onnx.ModelProto()
    model.CopyFrom(model_of(name))
    node = next(node for node in model.graph.node if node.op_type == "SVMClassifier")
    next(a for a in node.attribute if a.name == "post_transform").s = link.encode()
    rows = rows_of(name)[5:]
    hard = convert(model, form="hard")
    output = floats(model)[0]
    expected, found = run(model, {"X": rows})[output], run(hard, {"X": rows})[output]
    tolerance = 1e-5
    if link == "PROBIT":
        # The kernel finds the quantile of 0.5 as a small difference, and those of 0 and 1 as inf.
        tolerance, inside = 1e-3, np.abs(expected) < 3
        assert inside.mean() > 0.5
        expected, found = expected[inside], found[inside]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_none(kernel: str, value: float) -> None:
    for name in (f"SVR, {kernel}", f"SVC, {kernel}, three, scores"):
        rows = rows_of(name, 20)
        rows[10, 1] = value
        model = model_of(name)
        expected, found = run(model, {"X": rows}), run(convert(model, form="hard"), {"X": rows})
        for output, values in expected.items():
            if kernel == "rbf" or values.dtype.kind != "f":
                np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(np.isfinite(found[output]), np.isfinite(values))


def test_rows_far_from_the_origin() -> None:
    """In floats the squares of such rows leave nothing of their distances."""
    random = np.random.default_rng(0)
    X = (5000 + random.normal(size=(300, 3))).astype(np.float32)
    fitted = SVR(gamma=2.0, C=2.0).fit(X, X[:, 0] - X[:, 1] ** 2 / 5000)
    model = to_onnx(fitted, X[:1])
    found = run(convert(model, form="hard"), {"X": X})
    for output, values in run(model, {"X": X}).items():
        assert_close(values, found[output])


def test_sampled_rows_lie_among_the_support_vectors() -> None:
    random = np.random.default_rng(0)
    X = 100 + random.normal(size=(200, 3)).astype(np.float32)
    model = to_onnx(SVR(gamma=0.5).fit(X, np.sin(X[:, 0])), X[:1])
    rows = sample(model, 500)["X"]
    np.testing.assert_allclose(rows.mean(axis=0), 100, atol=0.5)
    assert run(model, {"X": rows})["variable"].std() > 0.05


def test_scores_of_a_pair_count_for_the_first_class() -> None:
    """onnxruntime writes (-s, s), s being positive for the first of the two."""
    name = "SVC, rbf, two, scores"
    model = model_of(name)
    results = run(model, {"X": rows_of(name)})
    label, scores = (results[output.name] for output in model.graph.output)
    np.testing.assert_array_equal(label, scores.argmin(axis=1))
    assert class_labels(model) == (0, 1)
    for zipmap in (False, True):
        held = prepare(load(model_of(name, zipmap)))
        assert labels_of(held, held.proto.graph.output[1].name) == (1, 0)


def test_raw_scores_are_turned_by_the_exporter() -> None:
    X, y = table("two")
    fitted = SVC().fit(X, y)
    model = to_onnx(fitted, X[:1], options={"zipmap": False, "raw_scores": True})
    results = run(model, {"X": X})
    label, scores = (results[output.name] for output in model.graph.output)
    np.testing.assert_array_equal(label, scores.argmax(axis=1))
    prepared = prepare(load(model))
    assert labels_of(prepared, prepared.proto.graph.output[1].name) == (0, 1)


def test_scores_of_more_pairs_are_of_no_class() -> None:
    prepared = prepare(load(model_of("SVC, rbf, three, scores")))
    assert labels_of(prepared, prepared.proto.graph.output[1].name) is None
    chances = prepare(load(model_of("SVC, rbf, three, chances")))
    assert labels_of(chances, chances.proto.graph.output[1].name) == (0, 1, 2)


@pytest.mark.parametrize("chances", [False, True])
def test_tuning_keeps_the_labels_right(chances: bool) -> None:
    X, y = table("two")
    few = slice(0, 80)
    fitted = make_pipeline(StandardScaler(), SVC(probability=chances, random_state=0))
    model = to_onnx(fitted.fit(X[few], y[few]), X[:1], options={"zipmap": False})
    result = onnxtune.tune(model, X[80:400], y[80:400], epochs=15)
    assert result.report["accepted"] and result.report["loss"] == "log"
    before, after = (
        np.mean(run(held, {"X": X[400:]})["label"] == y[400:]) for held in (model, result.model())
    )
    assert after >= before - 0.02
    assert any("gamma" in key for key in result.report["tensors"])


def test_gamma_stays_positive() -> None:
    from onnxtune.parameters import standardised

    module = to_torch(model_of("SVR, rbf"))
    name = next(key for key in module.learned if key.endswith("/gamma"))
    parameter = standardised(module.learned, [name], torch.device("cpu"))[name]
    assert torch.equal(parameter.settled(), parameter.initial)
    with torch.no_grad():
        parameter.delta.fill_(-5.0)
        assert 0 < float(parameter.value()) < float(parameter.initial)


REFUSED = {
    "PROBIT of one pair": (
        'post_transform = "PROBIT", classlabels_ints = [0, 1], vectors_per_class = [1, 1]',
        "unwritten",
    ),
    "one class": ("classlabels_ints = [0], vectors_per_class = [2]", "one class"),
    "no labels": ("vectors_per_class = [1, 1]", "no class labels"),
    "other counts": (
        "classlabels_ints = [0, 1, 2], vectors_per_class = [1, 1]",
        "vectors_per_class does not fit",
    ),
    "no such link": (
        'post_transform = "TANH", classlabels_ints = [0, 1], vectors_per_class = [1, 1]',
        "post_transform TANH",
    ),
    "no such kernel": (
        'kernel_type = "COSINE", classlabels_ints = [0, 1], vectors_per_class = [1, 1]',
        "kernel_type COSINE",
    ),
    "chances without shifts": (
        "prob_a = [1.0], classlabels_ints = [0, 1], vectors_per_class = [1, 1]",
        "prob_b",
    ),
    "too few coefficients": (
        "classlabels_ints = [0, 1], vectors_per_class = [1, 2]",
        "do not fit 3 support vectors",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    import onnx_ir as ir

    from rewrites.svm_classifier import REWRITE

    attributes, reason = REFUSED[name]
    model = parse(
        f"""g (float[N, 2] x) => (int64[N] label, float[N, 2] p) {{
            [machine] label, p = ai.onnx.ml.SVMClassifier <kernel_params = [0.5, 0.0, 3.0],
                coefficients = [1.0, -1.0], rho = [0.5], support_vectors = [1.0, 0.0, 0.5, 0.5],
                {attributes}> (x)
        }}"""
    )
    node = next(iter(ir.serde.deserialize_model(model).graph))
    with pytest.raises(OnnxTuneError, match=f"SVMClassifier 'machine'.*{reason}"):
        REWRITE.tensors(node, None)


@pytest.mark.parametrize("counts", [[4, 5], [3, 4, 2]])
def test_large_coefficients_that_cancel(counts: list[int]) -> None:
    """What is left of them are the roundings of the kernel."""
    rng = np.random.default_rng(1)
    total, classes = sum(counts), len(counts)
    vectors = (1 + 0.01 * rng.normal(size=(total, 3))).astype(np.float32)
    half = (3e5 * rng.uniform(0.9, 1, size=(classes - 1, total))).astype(np.float32)
    half[:, ::2] *= -1
    node = onnx.helper.make_node(
        "SVMClassifier",
        ["x"],
        ["label", "p"],
        domain="ai.onnx.ml",
        kernel_type="RBF",
        kernel_params=[0.12, 0.0, 3.0],
        vectors_per_class=counts,
        support_vectors=vectors.ravel().tolist(),
        coefficients=half.ravel().tolist(),
        rho=[0.5] * (classes * (classes - 1) // 2),
        classlabels_ints=list(range(classes)),
    )
    kinds = [("x", 1, ["N", 3]), ("label", 7, None), ("p", 1, None)]
    values = [onnx.helper.make_tensor_value_info(*kind) for kind in kinds]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 1)]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    rows = (1 + 0.05 * rng.normal(size=(50, 3))).astype(np.float32)
    wanted = run(model, {"x": rows})
    found = run(convert(model, form="hard"), {"x": rows})
    np.testing.assert_allclose(found["p"], wanted["p"], rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(found["label"], wanted["label"])
