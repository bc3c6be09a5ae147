"""ZipMap: wraps a tensor of scores into a sequence of maps; it stays at the end of the graph."""

from __future__ import annotations

from rewrites.core.rewrite import Case, Rewrite, no_tensors, unchanged

_STAYS = "a ZipMap stays: no standard operator makes maps"

REWRITE = Rewrite(
    operator="ZipMap",
    domain="ai.onnx.ml",
    tensors=no_tensors,
    soften=None,
    harden=unchanged,
    differentiable=(),
    carrier=0,
    cases=(
        Case(
            "behind a linear classifier",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (int64[N] label, seq(map(int64, float)) p) {
                label, scores = ai.onnx.ml.LinearClassifier <classlabels_ints = [3, 5],
                    coefficients = [-0.5, 1.0, 0.5, -1.0], intercepts = [0.25, -0.25],
                    post_transform = "LOGISTIC"> (x)
                p = ai.onnx.ml.ZipMap <classlabels_int64s = [3, 5]> (scores)
            }""",
            skips={"standard operators only": _STAYS},
        ),
    ),
)
