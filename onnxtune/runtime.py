"""onnxruntime behind a few functions: sessions, runs, and the types of values."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxtune.errors import ArgumentError, DataError, ModelError, ProviderError

# The names that users give -> onnxruntime's own.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}


_WITH_CUDA = ("cuda", "tensorrt")

# Options of a provider. TF32 rounds the factors of a product to 10 bits, which sends rows to other
# leaves of trees behind it; and memory grows by what is asked for, not to the next power of two.
SETTINGS: dict[str, dict[str, str]] = {
    "cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
}


@dataclass(frozen=True)
class ValueType:
    """Type of an ONNX value: `kind` is onnxruntime's word for it, such as `tensor(float)`.

    `shape` holds an int for a fixed dimension, None for one that varies; None where unknown.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None = None

    @property
    def is_float(self) -> bool:
        """A tensor of floating point numbers."""
        return self.kind in ("tensor(float)", "tensor(double)", "tensor(float16)")

    @property
    def is_string(self) -> bool:
        """A tensor of strings."""
        return self.kind == "tensor(string)"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of the tensor (`object` for strings).

        Raises:
            DataError: the value is no tensor, but a map or a sequence; or numpy lacks its type.
        """
        found = re.fullmatch(r"tensor\((\w+)\)", self.kind)
        if found is None:
            raise DataError(f"'{self.name}' is a {self.kind}, not a tensor.")
        try:
            return np.dtype(_DTYPES.get(found[1], found[1]))
        except TypeError:  # bfloat16, float8 and the like
            raise DataError(
                f"'{self.name}' is a {self.kind}, which numpy has no type for."
            ) from None


_DTYPES: dict[str, Any] = {"float": "float32", "double": "float64", "string": object}


def available_providers() -> list[str]:
    """The short names of the execution providers that this onnxruntime was built with."""
    import onnxruntime

    built = onnxruntime.get_available_providers()
    return [short for short, name in PROVIDERS.items() if name in built]


def session(
    model: onnx.ModelProto | bytes,
    provider: str = "cpu",
    threads: int | None = None,
    optimize: bool = True,
    origin: str = "",
    settings: Mapping[str, str] | None = None,
    profile: str | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on one provider; it never falls back to another in silence.

    Nodes that the provider has no kernel for run on the CPU, as onnxruntime places them.

    Args:
        model: the model, or its bytes.
        provider: a key of `PROVIDERS`.
        threads: intra-op threads; None leaves the choice to onnxruntime.
        optimize: False keeps the graph as it is, for a quick look at types.
        origin: what to call the model in messages.
        settings: onnxruntime's options of the provider, ahead of those in `SETTINGS`.
        profile: a path that the name of onnxruntime's profile begins with; None keeps none.

    Raises:
        ArgumentError: no such provider.
        ProviderError: the provider is not there, with the reason.
        ModelError: onnxruntime refuses the model, with its reason in one line.
    """
    import onnxruntime

    if provider not in PROVIDERS:
        raise ArgumentError(f"Provider '{provider}' is none of {', '.join(PROVIDERS)}.")
    wanted = PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        mend = "; install onnxruntime-gpu in its place" if provider in _WITH_CUDA else ""
        raise ProviderError(
            f"Provider '{provider}' is not in this onnxruntime "
            f"(it has {', '.join(available_providers())}){mend}."
        )
    if provider in _WITH_CUDA:
        load_cuda_libraries()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Idle workers that spin take the processor from torch, and from a second session.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if provider != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    content = model if isinstance(model, bytes) else model.SerializeToString()
    chosen = {**SETTINGS.get(provider, {}), **(settings or {})}
    try:
        with _quiet(provider):
            created = onnxruntime.InferenceSession(
                content, options, providers=[(wanted, chosen)], enable_fallback=0
            )
    except Exception as error:  # onnxruntime's exceptions share no public base class
        if provider != "cpu" and type(error) is RuntimeError:  # what it has against a model is not
            raise _not_started(provider, out_of_memory(error)) from error
        place = f"{origin}: " if origin else ""
        raise ModelError(f"{place}onnxruntime refuses the model: {one_line(error)}") from error
    if wanted not in created.get_providers():
        raise _not_started(provider)
    return created


_TINY = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N] x) => (float[N] y) { y = Neg (x) }
"""


def absence(provider: str) -> str | None:
    """Why a provider does not start on this machine; None where it does.

    Raises:
        ArgumentError: no such provider.
    """
    try:
        session(onnx.parser.parse_model(_TINY), provider)
    except ProviderError as error:
        return str(error)
    return None


def nodes_elsewhere(session: Any, provider: str) -> dict[str, int]:
    """Operators that onnxruntime placed on another provider than the session's, and how many nodes.

    Empty for a session on the CPU, and where this onnxruntime does not tell.
    """
    found: dict[str, int] = {}
    if provider == "cpu" or not hasattr(session, "get_provider_graph_assignment_info"):
        return found
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != PROVIDERS[provider]:
            for node in part.get_nodes():
                found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


@contextlib.contextmanager
def _quiet(provider: str) -> Iterator[None]:
    """Keep what onnxruntime says of a provider that does not start from stderr."""
    import onnxruntime

    if provider != "cpu":
        onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        if provider != "cpu":
            onnxruntime.set_default_logger_severity(2)  # as it is without a word from anyone


def _not_started(provider: str, memory: str | None = None) -> ProviderError:
    """onnxruntime gives no reason; the libraries that it tried to load tell what is missing.

    It does give one where memory ran out: `memory`.
    """
    return ProviderError(
        f"Provider '{provider}' is built in, but could not start on this machine: "
        f"{memory or _missing_library(provider) or _missing_device(provider)}."
    )


def _missing_library(provider: str) -> str | None:
    import onnxruntime

    name = f"libonnxruntime_providers_{provider}.so"
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / name))
    except OSError as error:
        missing = re.match(r"(\S+): cannot open shared object file", str(error))
        if missing and not missing[1].endswith(name):
            mend = "; PyTorch for the same CUDA brings it" if provider in _WITH_CUDA else ""
            return f"{missing[1]} was not found{mend}"
    return None


def _missing_device(provider: str) -> str:
    """Why no device answers, as far as the driver of NVIDIA's tells."""
    if provider not in _WITH_CUDA:
        return "there is no device for it, or no driver"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return "there is no NVIDIA driver (libcuda.so.1)"
    if status or not count.value:
        return f"the NVIDIA driver finds no device (status {status})"
    return "onnxruntime made a session without it, and gives no reason"


def load_cuda_libraries() -> None:
    """Load the CUDA libraries that torch's packages bring, for onnxruntime to find them in place.

    A torch that was built for CUDA loads them itself; else those of NVIDIA's packages are loaded,
    as far as they are there. What is missing is told by the session that needs it.
    """
    import importlib.util
    import io

    import onnxruntime

    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.version.cuda is not None:
            return
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


# The file, line and signature of the C++ function that complains.
_PLACE = re.compile(
    r"/\S+\.(?:cc|cpp|h|cu|cuh):\d+ [^()]*(?:\((?:[^()]|\([^()]*\))*\))+"
    r"(?:::<lambda\([^()]*\)>)?(?: const)?(?: \[with [^\]]*\])? "
)

# What StringNormalizer says where the system lacks the locale by which it changes case.
_LOCALE = re.compile(
    r"(?:Exception during initialization: )?Failed to construct locale with name:(\S+?):.*"
)


def one_line(error: BaseException) -> str:
    """The message of an error without onnxruntime's prefixes, on one line."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return _LOCALE.sub(
        r"the system lacks the locale \1, by which words change their case; install it, or fit "
        "with lowercase=False",
        _PLACE.sub("", text),
    )


_OUT_OF_MEMORY = (
    r"failed to allocate|available memory of|bad.alloc|alloc_failed|CUDA failure 2\b|"
    r"out of memory|integer overflow"
)


def out_of_memory(error: BaseException) -> str | None:
    """The words of an error from where they speak of memory that ran out; None if they do not."""
    text = one_line(error)
    found = re.search(_OUT_OF_MEMORY, text, re.IGNORECASE)
    if found:
        return text[found.start() :]
    return text if isinstance(error, MemoryError) else None


def run(
    model: onnx.ModelProto | bytes | Any,
    feed: Mapping[str, np.ndarray[Any, Any]],
    outputs: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run a model, or a session, on the CPU.

    Returns:
        Output name -> array, or a list of dictionaries for a ZipMap.

    Raises:
        ModelError: onnxruntime refuses the model.
        DataError: it refuses the data.
    """
    ready = session(model) if isinstance(model, onnx.ModelProto | bytes) else model
    names = list(outputs) if outputs is not None else [out.name for out in ready.get_outputs()]
    try:
        return dict(zip(names, ready.run(names, dict(feed)), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise DataError(f"onnxruntime cannot run these data: {one_line(error)}") from error


def input_types(model: onnx.ModelProto) -> list[ValueType]:
    """Types of the graph inputs that a caller feeds (initializers are none)."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [_declared(value) for value in model.graph.input if value.name not in held]


def fixed_sizes(inputs: Sequence[ValueType]) -> dict[str, int]:
    """The inputs whose first dimension is fixed, with its size."""
    first = {value.name: value.shape[0] if value.shape else None for value in inputs}
    return {name: size for name, size in first.items() if size is not None and size > 0}


def output_types(model: onnx.ModelProto) -> list[ValueType]:
    """Types of the graph outputs as onnxruntime infers them."""
    return [_reported(value) for value in session(model, optimize=False).get_outputs()]


def value_types(model: onnx.ModelProto) -> dict[str, ValueType]:
    """Types of every value that a node of the main graph makes, as onnxruntime infers them.

    `onnx.shape_inference` is not used: on a LabelEncoder with an untyped input it kills the
    process (onnx 1.23).
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                probe.graph.output.add().name = name
                known.add(name)
    types = {value.name: _reported(value) for value in session(probe, optimize=False).get_outputs()}
    return types | {value.name: value for value in input_types(model)}


def declared_types(model: onnx.ModelProto) -> dict[str, ValueType]:
    """Types of the values that the graph itself gives a type."""
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: _declared(value) for value in values if value.HasField("type")}


def _reported(value: Any) -> ValueType:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape or ())
    return ValueType(value.name, value.type, shape if value.shape else None)


def _declared(value: onnx.ValueInfoProto) -> ValueType:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return ValueType(value.name, str(kind).removesuffix("_type"))
    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return ValueType(value.name, f"tensor({name})")
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return ValueType(value.name, f"tensor({name})", shape)
