"""What only a machine with an NVIDIA GPU can show; elsewhere each test says that it was skipped."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cards import missing
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import onnxtune
from onnxtune import memory, runtime
from onnxtune.profiles import placement
from onnxtune.runner import Runner


@pytest.fixture(autouse=True)
def _card() -> None:
    if reason := missing():
        pytest.skip(reason)


rng = np.random.default_rng(0)
X = rng.normal(size=(20_000, 8)).astype(np.float32)
CLASSES = (X[:, 0] + 0.5 * rng.normal(size=len(X)) > 0).astype(int)


def model() -> onnx.ModelProto:
    steps = make_pipeline(StandardScaler(), RandomForestClassifier(20, max_depth=7, random_state=0))
    return onnxtune.to_onnx(steps.fit(X[:2000], CLASSES[:2000]), X)


def hard() -> onnx.ModelProto:
    return onnxtune.convert(model(), "hard", batch_size=20_000, provider="cuda")


def agree(found: dict[str, Any], expected: dict[str, Any]) -> None:
    probabilities = expected["probabilities"]
    np.testing.assert_allclose(np.asarray(found["probabilities"]), probabilities, atol=1e-5)
    clear = np.abs(probabilities[:, 0] - probabilities[:, 1]) > 1e-5
    labels = np.asarray(found["label"])
    np.testing.assert_array_equal(labels[clear], expected["label"][clear])


def test_the_answers_of_the_cpu() -> None:
    expected = runtime.run(model(), {"X": X})
    with Runner(hard(), "cuda") as runner:
        assert runner.provider == "cuda"
        agree(runner.run(X), expected)
        assert runner.chunk is not None
    with Runner(hard(), "cuda", chunk=777) as runner:
        agree(runner.run(X), expected)


def test_auto_takes_the_card() -> None:
    with Runner(hard()) as runner:
        assert (runner.provider, runner.reason) == ("cuda", None)


def test_tensors_stay_there() -> None:
    expected = runtime.run(model(), {"X": X})
    with Runner(hard(), "cuda") as runner:
        made = runner.run(torch.from_numpy(X).cuda())
        assert all(value.is_cuda for value in made.values())
        agree({name: value.cpu() for name, value in made.items()}, expected)
        # What another stream of torch's has not yet written is waited for.
        doubled = torch.from_numpy(X).cuda() * 2 / 2
        agree({n: v.cpu() for n, v in runner.run(doubled).items()}, expected)


def test_captured_graphs() -> None:
    with Runner(hard(), "cuda", cuda_graph=[1, 16]) as runner:
        for rows in (1, 2, 16, 17, 500, 3):
            agree(runner.run(X[:rows]), runtime.run(model(), {"X": X[:rows]}))
        made = runner.run(torch.from_numpy(X[:4]).cuda())
        agree({n: v.cpu() for n, v in made.items()}, runtime.run(model(), {"X": X[:4]}))


def test_no_copies() -> None:
    where = placement(hard().SerializeToString(), "cuda", {"X": X[:64]})
    assert where.copies == 0
    assert set(where.nodes) == {"cuda"} or set(where.operators["cpu"]) <= {"Shape"}


def test_closing_gives_the_memory_back() -> None:
    Runner(hard(), "cuda").close()  # what CUDA itself keeps
    before = memory.device_memory_at_hand()
    runner = Runner(hard(), "cuda")
    runner.run(X)
    runner.close()
    del runner
    gc.collect()
    after = memory.device_memory_at_hand()
    assert before is not None and after is not None
    assert before - after < 64 * 2**20


def test_tuning_has_the_losses_of_the_cpu() -> None:
    fitted = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(
        X[:2000], CLASSES[:2000]
    )
    original = onnxtune.to_onnx(fitted, X)
    for routing in ("soft", "straight-through", "leaves"):
        histories = [
            [
                (epoch.train, epoch.valid)
                for epoch in onnxtune.tune(
                    original, X[2000:4000], CLASSES[2000:4000], routing=routing, epochs=3, seed=0,
                    valid="last", temperature=0.1, device=device,
                ).history
            ]
            for device in ("cpu", "cuda")
        ]  # fmt: skip
        np.testing.assert_allclose(histories[1], histories[0], rtol=1e-3)
