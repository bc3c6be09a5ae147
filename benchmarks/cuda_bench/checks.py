"""What is asked of one model: whether its form for the CUDA provider is whole, and right."""

from __future__ import annotations

import collections
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from coverage_bench.checks import HOLDS, Feed, nodes, sampled, stored

import onnxtune
from onnxtune.agreement import as_values, compare
from onnxtune.conversion import Form, converted, serving_for
from onnxtune.cuda_kernels import gaps
from onnxtune.errors import OnnxTuneError, UnsupportedError
from onnxtune.model import load
from onnxtune.runtime import run
from onnxtune.splitting import cut

RTOL = 1e-4

# Set where onnxruntime finds stand-ins for CUDA's libraries.
STANDING_IN = "ONNXTUNE_CUDA_STAND_INS"


def check(path: Path, form: Form) -> dict[str, Any]:
    """Everything about one model in a form.

    The hard form is compared with the original, the soft one with that for a CPU.

    Returns:
        `split`: "holds", or why it is refused. Of a split one `nodes` and `between`; `outside`:
        nodes of the GPU part without a kernel, by operator; `equal` and `chained`: whether the
        whole form and the parts give the original's answers; and where onnxruntime is asked,
        `placed` on the CPU, by operator, and `copies`.
    """
    record: dict[str, Any] = {}
    try:
        model = load(path)
        feeds = [feed for feed in (sampled(model, 256), stored(model, path)) if feed is not None]
        if not feeds:
            return {"split": "no rows"}
        serving = serving_for("auto", 1000, "cuda")
        whole, placement = converted(model, form, "auto", None, serving)
        assert placement is not None
        parts = cut(whole, placement)  # what `onnxtune.split` does
        record["split"] = HOLDS
    except OnnxTuneError as error:
        refused = isinstance(error, UnsupportedError)
        return {"split": f"{'refused' if refused else 'WRONG'}: {' '.join(str(error).split())}"}
    except Exception as error:  # whatever it is, it is to be counted
        return {"split": f"CRASH {type(error).__name__}: {' '.join(str(error).split())}"}
    record["nodes"] = {side: len(part.graph.node) for side, part in parts.parts.items()}
    record["between"] = list(parts.between)
    found = gaps(parts.gpu)
    record["outside"] = dict(collections.Counter(f"{g.operator}: {g.reason}" for g in found))
    plain = onnxtune.convert(model, form)
    wanted = model.proto if form == "hard" else plain
    record["equal"] = _agreement(wanted, lambda feed: run(whole, feed), whole, feeds)
    record["chained"] = _agreement(wanted, parts.run, whole, feeds)
    here = partial(_agreement, wanted, lambda feed: run(plain, feed), plain, feeds)
    if "WRONG" in record["equal"] and "WRONG" in here():
        record["equal"] = record["chained"] = "as far apart as the hard form on a CPU"
    if os.environ.get(STANDING_IN):
        record |= placed(parts.gpu)
    return record


def _agreement(
    wanted: onnx.ModelProto, answers: Any, whole: onnx.ModelProto, feeds: list[Feed]
) -> str:
    """Whether these are the answers of another model."""
    for feed in feeds:
        expected = as_values(wanted, run(wanted, feed))
        try:
            found = as_values(whole, answers(feed))
        except OnnxTuneError as error:
            return f"WRONG: {' '.join(str(error).split())}"
        rows = max((len(array) for array in feed.values()), default=0)
        for verdict in compare(wanted, expected, found, rows, RTOL, 0.0):
            if not verdict.agrees:
                why = verdict.problem or f"{verdict.rows_past} rows of {rows} differ"
                return f"WRONG: {verdict.name} {why}"
    return HOLDS


def placed(gpu: onnx.ModelProto) -> dict[str, Any]:
    """What onnxruntime itself makes of a GPU part: its copies, and its nodes on the CPU.

    Nodes that compute with shapes are among these, and need no copy.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "placed.onnx")
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(gpu.SerializeToString(), options, providers)
        written = onnx.load(options.optimized_model_filepath)
    on_cpu = [
        node.op_type
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name != "CUDAExecutionProvider"
        for node in group.get_nodes()
    ]
    copies = sum(node.op_type.startswith("Memcpy") for node in nodes(written.graph))
    return {"placed": dict(collections.Counter(on_cpu)), "copies": copies}
