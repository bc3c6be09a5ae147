"""The torch module: names, freezing, state, devices, compilation, gradients."""

from __future__ import annotations

import copy
import io

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pipelines import PIPELINES, data_of, exported, mixed

from onnxtune.errors import ArgumentError, DataError, UnsupportedError
from onnxtune.runtime import run
from onnxtune.sampling import sample
from onnxtune.torch_module import OnnxModule, to_torch
from rewrites.core.rewrite import Routing


def outputs(module: OnnxModule, feed: dict[str, np.ndarray]) -> torch.Tensor:
    return next(iter(module.predict(feed).values()))


@pytest.mark.parametrize("routing", ["hard", "straight-through"])
@pytest.mark.parametrize("name", PIPELINES)
def test_equals_onnxruntime(name: str, routing: str) -> None:
    model = exported(name)
    (X, _), _, _ = data_of(name)
    found = to_torch(model, routing=routing).predict(X)
    expected = run(model, {"X": X})
    for output, value in found.items():
        got, wanted = value.detach().numpy(), np.asarray(expected[output])
        # After a matrix product the last bits differ, and a row on a threshold may turn.
        close = np.isclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
        assert (~close.all(axis=1)).sum() <= len(X) // 500


@pytest.mark.parametrize("name", PIPELINES)
def test_gradients_equal_finite_differences(name: str) -> None:
    """Random entries of every tensor, in double precision, to 1e-3."""
    model = exported(name)
    (X, _), _, _ = data_of(name)
    module = to_torch(model, routing="soft", temperature=0.5, data=X[:100]).double()
    inputs = [value.double() for value in module.to_tensors(module.core_inputs({"X": X[:60]}))]
    value = next(iter(module(*inputs).values()))
    direction = torch.randn(value.shape, dtype=torch.float64, generator=_generator())

    def loss() -> torch.Tensor:
        return (next(iter(module(*inputs).values())) * direction).sum()

    loss().backward()
    chosen = np.random.default_rng(0)
    for tensor_name, tensor in module.tensors().items():
        assert tensor.grad is not None
        size = float(tensor.grad.abs().max())
        assert size > 0, tensor_name
        for entry in chosen.choice(tensor.numel(), min(3, tensor.numel()), replace=False):
            place = np.unravel_index(entry, tensor.shape)
            step = 1e-6 * max(1.0, abs(tensor[place].item()))
            with torch.no_grad():
                held = tensor[place].item()
                tensor[place] = held + step
                above = loss().item()
                tensor[place] = held - step
                below = loss().item()
                tensor[place] = held
            expected = (above - below) / (2 * step)
            assert tensor.grad[place].item() == pytest.approx(
                expected, rel=1e-3, abs=1e-5 * size
            ), (tensor_name, place)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_parameters_speak_onnx_names() -> None:
    module = to_torch(exported("forest"))
    names = {
        "Scaler/offset",
        "Scaler/scale",
        "mean",
        "transform_matrix",
        "TreeEnsembleClassifier/thresholds",
        "TreeEnsembleClassifier/leaf_values",
    }
    assert set(module.tensors()) == names
    assert set(module.state_dict()) == names
    assert len(list(module.parameters())) == len(names)


def test_names_that_torch_forbids() -> None:
    """Dots, slashes, words of the module's own and of Python's."""
    names = ["a.b", "c/d e", "forward", "training", "class", "_parameters", "ö"]
    nodes, value = [], "x"
    for place, name in enumerate(names):
        nodes.append(onnx.helper.make_node("Mul", [value, name], [f"v.{place}"]))
        value = f"v.{place}"
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 2])],
        [onnx.helper.make_tensor_value_info(value, 1, ["N", 2])],
        [numpy_helper.from_array(np.array([1.5, 2], np.float32), name) for name in names],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    module = to_torch(model)
    assert list(module.tensors()) == names
    assert list(module.state_dict()) == names
    feed = {"x": np.ones((3, 2), np.float32)}
    np.testing.assert_allclose(outputs(module, feed).detach(), run(model, feed)[value])


def test_state_dict_round_trip_inside_another_module() -> None:
    whole = torch.nn.Sequential()
    whole.add_module("tuned", to_torch(exported("ridge")))
    state = whole.state_dict()
    assert "tuned.Scaler/offset" in state
    state = {name: value + 1 for name, value in state.items()}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    whole.load_state_dict(torch.load(file))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name])
    with pytest.raises(RuntimeError, match="Missing key"):
        whole.load_state_dict({})


def test_freeze_and_unfreeze_by_glob() -> None:
    module = to_torch(exported("forest"))
    assert module.freeze("Scaler/*") == ["Scaler/offset", "Scaler/scale"]
    assert module.freeze("*")
    assert module.unfreeze("*/leaf_values") == ["TreeEnsembleClassifier/leaf_values"]
    trainable = [name for name, tensor in module.tensors().items() if tensor.requires_grad]
    assert trainable == ["TreeEnsembleClassifier/leaf_values"]
    with pytest.raises(ArgumentError, match=r"'tree\*' matches no learned tensor.*Scaler/offset"):
        module.freeze("tree*")


def test_a_tensor_used_twice_is_one_parameter() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 2] x) => (float[N, 2] y) {
            first = MatMul (x, w)
            y = MatMul (first, w)
        }"""
    )
    weights = np.array([[1, 2], [3, 4]], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    module = to_torch(model)
    assert len(list(module.parameters())) == 1
    feed = {"x": np.array([[1, 1]], np.float32)}
    np.testing.assert_array_equal(outputs(module, feed).detach(), run(model, feed)["y"])
    outputs(module, feed).sum().backward()
    w = torch.tensor(weights, requires_grad=True)
    (torch.ones(1, 2) @ w @ w).sum().backward()
    assert torch.equal(module.tensors()["w"].grad, w.grad)


@pytest.mark.parametrize("routing", ["soft", "straight-through", "hard"])
@pytest.mark.parametrize("name", ["forest", "boosting of three", "regression boosting", "poisson"])
def test_compiles_without_graph_breaks(name: str, routing: str) -> None:
    (X, _), _, _ = data_of(name)
    module = to_torch(exported(name), routing=routing)
    inputs = module.to_tensors(module.core_inputs({"X": X[:50]}))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    expected, found = module(*inputs), compiled(*inputs)
    for output in expected:
        torch.testing.assert_close(found[output], expected[output])
    sum(value.sum() for value in found.values()).backward()
    assert all(t.grad is not None for n, t in module.tensors().items() if "leaf" in n)
    torch._dynamo.reset()


def test_moves_with_its_graphs() -> None:
    module = to_torch(exported("forest"), routing="soft").to("meta")
    module.routing = "hard"  # built after the move
    devices = {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}
    assert devices == {"meta"}


def test_a_copy_is_independent() -> None:
    module = to_torch(exported("ridge"))
    copied = copy.deepcopy(module)
    with torch.no_grad():
        copied.tensors()["Scaler/offset"].add_(1)
    assert not torch.equal(copied.tensors()["Scaler/offset"], module.tensors()["Scaler/offset"])
    (X, _), _, _ = data_of("ridge")
    assert not torch.equal(outputs(module, {"X": X}), outputs(copied, {"X": X}))


def test_routing_and_temperature_may_change_at_any_time() -> None:
    (X, _), _, _ = data_of("regression boosting")
    module = to_torch(exported("regression boosting"), routing="soft", temperature=1e-6)
    feed = {"X": X}
    sharp = outputs(module, feed)
    module.temperature = 1.0
    smooth = outputs(module, feed)
    assert not torch.allclose(sharp, smooth)
    module.routing = "hard"
    hard = outputs(module, feed)
    torch.testing.assert_close(sharp, hard, rtol=1e-4, atol=1e-3)
    module.routing = "straight-through"
    assert torch.allclose(outputs(module, feed), hard, rtol=1e-5, atol=1e-5)
    with pytest.raises(ArgumentError, match="Routing 'round'"):
        module.routing = "round"  # type: ignore[assignment]
    for wrong in (0, -1.0, float("nan"), "warm"):
        with pytest.raises(ArgumentError, match="temperature"):
            module.temperature = wrong  # type: ignore[assignment]


def test_hard_routing_tunes_leaves_only() -> None:
    (X, _), _, _ = data_of("regression forest")
    module = to_torch(exported("regression forest"), routing="hard")
    outputs(module, {"X": X}).sum().backward()
    grads = {name.split("/")[-1]: tensor.grad for name, tensor in module.tensors().items()}
    assert grads["leaf_values"] is not None
    assert grads["leaf_values"].abs().sum() > 0
    assert grads["thresholds"] is None or not grads["thresholds"].any()


def test_missing_and_infinite_inputs_have_finite_gradients() -> None:
    model = exported("regression boosting")
    feed = sample(model, 200, seed=3)
    feed["X"][::3, 0] = np.nan
    feed["X"][1::3, 1] = np.inf
    feed["X"][2::3, 2] = -np.inf
    module = to_torch(model, routing="soft")
    module.freeze("Scaler/*")  # inf times a scale is inf: its gradient is none of the trees'
    value = outputs(module, feed)
    assert torch.isfinite(value).all()
    value.sum().backward()
    for name in ("thresholds", "leaf_values"):
        tensor = module.tensors()[f"TreeEnsembleRegressor/{name}"]
        assert torch.isfinite(tensor.grad).all()


def test_data_calibrates_the_gates() -> None:
    (X, _), _, _ = data_of("regression forest")
    model = exported("regression forest")
    plain, measured = to_torch(model), to_torch(model, data=X)
    feed = {"X": X[:20]}
    assert not torch.equal(outputs(plain, feed), outputs(measured, feed))
    wide = to_torch(model, data=X * 100)
    assert not torch.allclose(outputs(measured, feed), outputs(wide, feed))


def test_load_tensors_checks_names_and_shapes() -> None:
    module = to_torch(exported("ridge"))
    module.load_tensors({"Scaler/offset": np.zeros(10, np.float32)})
    assert not module.tensors()["Scaler/offset"].any()
    with pytest.raises(ArgumentError, match="'nothing' is no learned tensor"):
        module.load_tensors({"nothing": np.zeros(1)})
    with pytest.raises(ArgumentError, match=r"'Scaler/offset' has shape \(10,\), not \(3,\)"):
        module.load_tensors({"Scaler/offset": np.zeros(3)})


def test_predict_takes_what_the_model_takes() -> None:
    model, table, _ = mixed()
    module = to_torch(model)
    assert outputs(module, table).shape == (len(table), 1)
    assert outputs(module, table.iloc[:1]).shape == (1, 1)
    with pytest.raises(DataError, match="colour"):
        module.predict(table.drop(columns="colour"))


@pytest.mark.parametrize("form", ["native", "hard"])
def test_the_tensors_of_an_own_loop_go_back_by_name(form: str) -> None:
    (X, _), _, _ = data_of("regression forest")
    module = to_torch(exported("regression forest"), routing="hard")
    with torch.no_grad():
        for tensor in module.tensors().values():
            tensor.mul_(1.125)
    expected = outputs(module, {"X": X}).detach()
    found = run(module.model(form), {"X": X})["variable"]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert module.predict(X[:0])["variable"].shape == (0, 1)


def test_no_rows() -> None:
    (X, _), _, _ = data_of("forest")
    for routing in ("soft", "straight-through", "hard"):
        module = to_torch(exported("forest"), routing=routing)  # type: ignore[arg-type]
        assert next(iter(module(torch.zeros(0, X.shape[1])).values())).shape == (0, 2)


def test_an_operator_without_a_torch_form_is_named() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 2, 4] x) => (float[N, 2, M] y) {
            scaled = Mul (x, w)
            [hard] bent = LpPool <kernel_shape = [1]> (scaled)
            y = Add (scaled, bent)
        }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "w"))
    with pytest.raises(UnsupportedError, match=r"LpPool 'hard'.*has no torch form"):
        to_torch(model)


@pytest.mark.parametrize("routing", ["soft", "straight-through", "hard"])
def test_a_module_of_doubles_has_no_floats_inside(routing: Routing) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        g (float[N, 2] x) => (float[N, 2] y)
        <float[2] k = {2.0, 3.0}, float[2, 2] w = {1.0, 2.0, 3.0, 4.0}> {
            scaled = Mul (x, k)
            kept = Cast <to = 1> (scaled)
            steps = ai.onnx.ml.Binarizer <threshold = 1.0> (x)
            looked = ai.onnx.ml.LabelEncoder <keys_floats = [0.0, 1.5], values_floats = [1.0, 2.0]>
                (x)
            first = Add (kept, looked)
            both = Add (first, steps)
            y = MatMul (both, w)
        }"""
    )
    rows = np.array([[0.0, 1.5], [1.5, 7.0]], np.float32)
    module = to_torch(model, routing=routing)
    expected = module.predict(rows)["y"].detach().numpy()
    found = module.double()(*(value.double() for value in map(torch.from_numpy, [rows])))["y"]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-6)
