"""The same graph from random numbers."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from forests import random_trees, random_weights, regressor
from onnx import numpy_helper
from pipelines import data_of, exported
from skl2onnx import to_onnx
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onnxtune.calibration import feed_spreads, matrices
from onnxtune.data import load
from onnxtune.export import native
from onnxtune.learned import ir_node
from onnxtune.model import load as load_model
from onnxtune.parameters import standardised
from onnxtune.partition import partition
from onnxtune.preparation import prepare
from onnxtune.random_start import random_start
from onnxtune.runtime import input_types, run
from onnxtune.torch_module import OnnxModule
from rewrites.core.registry import find

Feed = dict[str, np.ndarray]


def module_of(model: onnx.ModelProto, X: np.ndarray) -> tuple[OnnxModule, Feed]:
    prepared = prepare(load_model(model))
    feed = load(X, input_types(prepared.source.proto)).feed
    spreads = feed_spreads(prepared, feed)
    floats = [output.name for output in model.graph.output if "label" not in output.name]
    return OnnxModule(prepared, partition(prepared, floats), spreads, "hard", 0.1), feed


@cache
def made(name: str) -> tuple[OnnxModule, Feed]:
    if name == "pca":
        (X, y), _, _ = data_of("ridge")
        pipeline = make_pipeline(StandardScaler(), PCA(4), Ridge()).fit(X, y)
        return module_of(to_onnx(pipeline, X[:1]), X)
    return module_of(exported(name), data_of(name)[0][0])


NAMES = [
    "forest", "forest of three", "boosting", "boosting of three", "regression forest",
    "regression boosting", "logistic", "logistic of three", "ridge", "poisson", "pca",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_another_of_its_type(name: str) -> None:
    module, feed = made(name)
    found = random_start(module, feed, 0)
    assert found.keys() == module.learned.keys()
    for key, tensor in module.learned.items():
        value = found[key]
        assert value.dtype == tensor.value.dtype and value.shape == tensor.value.shape
        assert np.isfinite(value).all()
        assert tensor.value.size < 3 or not np.array_equal(value, tensor.value)
    again, other = random_start(module, feed, 0), random_start(module, feed, 1)
    assert all(np.array_equal(found[key], again[key]) for key in found)
    moved = [key for key in found if not np.array_equal(found[key], other[key])]
    assert moved == [key for key in found if found[key].any()]


@pytest.mark.parametrize("name", ["forest", "forest of three"])
def test_leaves_stay_distributions(name: str) -> None:
    module, feed = made(name)
    found = random_start(module, feed, 0)
    bound = {key: held for key, held in module.learned.items() if held.constraint is not None}
    assert bound
    for key, held in bound.items():
        assert held.constraint is not None
        assert (found[key] >= 0).all()
        if held.constraint.kind == "simplex":
            np.testing.assert_allclose(found[key].sum(1), held.value.sum(1), rtol=1e-5)
        else:
            assert (found[key] <= held.constraint.high).all()
    proto = native(module.prepared, found).proto
    X = data_of(name)[0][0]
    outputs = run(proto, {proto.graph.input[0].name: X})
    scores = next(value for key, value in outputs.items() if "prob" in key)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-4)
    assert (scores >= -1e-6).all()


@pytest.mark.parametrize("name", ["forest", "regression boosting"])
def test_thresholds_are_numbers_of_their_feature(name: str) -> None:
    module, feed = made(name)
    found = random_start(module, feed, 0)
    for node in module.prepared.proto.graph.node:
        rewrite = find(node.domain, node.op_type)
        if rewrite is None or rewrite.ensemble is None:
            continue
        features = rewrite.ensemble.features(ir_node(module.prepared, node))
        thresholds = found[f"{node.name}/thresholds"]
        assert features.shape == thresholds.shape
        data = matrices(module.prepared, feed, [node.input[0]])[node.input[0]]
        for feature, value in zip(features, thresholds, strict=True):
            assert value in data[:, feature].astype(value.dtype)


def test_features_are_those_that_the_node_lists() -> None:
    rng = np.random.default_rng(0)
    trees = random_trees(rng, count=4, depth=4)
    model = regressor(trees, random_weights(rng, trees, 1, "single"), 1)
    prepared = prepare(load_model(model))
    (node,) = [n for n in prepared.proto.graph.node if n.op_type.startswith("TreeEnsemble")]
    rewrite = find(node.domain, node.op_type)
    assert rewrite is not None and rewrite.ensemble is not None
    read = ir_node(prepared, node)
    features, thresholds = rewrite.ensemble.features(read), rewrite.tensors(read, None)
    listed = sorted(zip(trees.feature[trees.inner], trees.value[trees.inner], strict=True))
    own = sorted(zip(features, thresholds["thresholds"].value, strict=True))
    np.testing.assert_allclose(np.array(own, float), np.array(listed, float), rtol=1e-6)


def test_infinite_thresholds_and_columns_without_numbers_stay() -> None:
    rng = np.random.default_rng(1)
    trees = random_trees(rng, count=6, depth=4, infinite=True)
    model = regressor(trees, random_weights(rng, trees, 1, "single"), 1)
    X = rng.normal(size=(40, trees.width)).astype(np.float32)
    X[:, 1] = np.nan
    X[:30, 2] = np.inf
    module, feed = module_of(model, X)
    found = random_start(module, feed, 0)
    (name,) = [key for key, held in module.learned.items() if held.group == "thresholds"]
    value, old = found[name], module.learned[name].value
    assert np.isinf(old).any()
    np.testing.assert_array_equal(value[np.isinf(old)], old[np.isinf(old)])
    (node,) = [n for n in module.prepared.proto.graph.node if n.name == name.split("/")[0]]
    rewrite = find(node.domain, node.op_type)
    assert rewrite is not None and rewrite.ensemble is not None
    feature = rewrite.ensemble.features(ir_node(module.prepared, node))
    np.testing.assert_array_equal(value[feature == 1], old[feature == 1])
    drawn = value[(feature == 2) & np.isfinite(old)]
    assert drawn.size and np.isin(drawn, X[30:, 2]).all()


def test_scales_are_positive_and_offsets_zero() -> None:
    for name in ("boosting", "pca"):
        module, feed = made(name)
        found = random_start(module, feed, 0)
        scaler = next(key.split("/")[0] for key in found if key.endswith("/scale"))
        scale = found[f"{scaler}/scale"]
        ratio = scale / np.abs(module.learned[f"{scaler}/scale"].value)
        assert (scale > 0).all() and (ratio > 0.2).all() and (ratio < 5).all()
        assert not found[f"{scaler}/offset"].any()
    assert not found["mean"].any()
    for key in ("coefficients", "intercepts"):
        (full,) = [k for k in found if k.endswith(key)]
        assert found[full].any() == (key == "coefficients")


@pytest.mark.parametrize("turned", [False, True])
def test_weights_of_standard_nodes(turned: bool) -> None:
    """Each by the number of inputs, whichever way its matrix lies; what is added becomes 0."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 100] x) => (float[N, 1] y) {{
            scaled = Mul (x, scale)
            hidden = Gemm <transB = {int(turned)}> (scaled, first, bias)
            bent = Tanh (hidden)
            out = MatMul (bent, second)
            y = Add (out, shift)
        }}"""
    )
    shapes = {
        "scale": (100,),
        "first": (4, 100) if turned else (100, 4),
        "bias": (4,),
        "second": (4, 2),
        "shift": (2,),
    }
    for name, shape in shapes.items():
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    module, feed = module_of(model, rng.normal(size=(300, 100)).astype(np.float32))
    assert set(module.learned) == set(shapes)
    draws = [random_start(module, feed, seed) for seed in range(20)]
    for name, inputs in (("first", 100), ("second", 4)):
        unit = np.broadcast_to(module.learned[name].unit, shapes[name])
        size = np.std([found[name] / unit for found in draws]) * np.sqrt(inputs)
        assert 0.8 < size < 1.25, name
    assert (draws[0]["scale"] > 0).all()
    assert not draws[0]["bias"].any() and not draws[0]["shift"].any()


def test_scores_keep_about_their_size() -> None:
    module, feed = made("pca")
    found = [random_start(module, feed, seed) for seed in range(20)]
    name = next(key for key in found[0] if key.endswith("coefficients"))
    tensor = module.learned[name]
    ratio = np.std(
        [value[name] / np.broadcast_to(tensor.unit, tensor.value.shape) for value in found]
    )
    assert 0.3 < ratio < 0.8  # one over the root of four inputs


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(name: str) -> None:
    module, feed = made(name)
    start = random_start(module, feed, 0)
    rows = {key: value[:200] for key, value in feed.items()}
    y = data_of("ridge" if name == "pca" else name)[0][1][:200]
    trained = OnnxModule(
        prepare(load_model(native(module.prepared, start).proto)),
        module.cut, module.spreads, "straight-through", 0.1,
    )  # fmt: skip
    trained.load_tensors(start)
    parameters = standardised(module.learned, list(module.learned), torch.device("cpu"))
    for key, parameter in parameters.items():
        parameter.initial.copy_(torch.from_numpy(start[key]))
    inputs = trained.to_tensors(trained.run_prefix(rows))
    output = trained.cut.outputs[next(iter(trained.cut.outputs))]
    optimizer = torch.optim.Adam([p.delta for p in parameters.values()], lr=0.02)
    losses = []
    for _ in range(12):
        values = trained.evaluate(inputs, {key: p.value() for key, p in parameters.items()})
        scores = values[output].reshape(len(y), -1)
        if scores.shape[1] > 1:
            loss = -torch.log(scores[torch.arange(len(y)), torch.from_numpy(y)] + 1e-6).mean()
        else:
            loss = (scores[:, 0] - torch.from_numpy(y.astype(np.float32))).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
