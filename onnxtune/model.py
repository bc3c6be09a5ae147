"""A model argument becomes a `Model`: the parsed graph beside the bytes it came from."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError

from onnxtune.errors import ArgumentError, ModelError


@dataclass(frozen=True)
class Model:
    """An ONNX model as it arrived.

    `proto` is shared and must not be changed in place; `content` holds the exact bytes, so that
    a model nobody changed is written back byte for byte. `origin` is the name for messages.
    """

    proto: onnx.ModelProto
    content: bytes
    origin: str
    path: Path | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


ModelLike = Any  # str | os.PathLike | bytes | onnx.ModelProto | Model | a fitted estimator


def load(model: ModelLike, data: Any = None) -> Model:
    """Read a model argument.

    Args:
        model: a path, the bytes of a model, an `onnx.ModelProto`, a `Model`, or a fitted
            scikit-learn, LightGBM, XGBoost or CatBoost estimator.
        data: rows like those the estimator was fitted on; only an estimator needs them, to know
            the types of its columns.

    Raises:
        ModelError: the file is missing, empty or cut short, or holds no ONNX model.
        MissingDependencyError: the estimator's exporter is not installed.
        DataError: the columns are not in the order that the estimator was fitted with.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, onnx.ModelProto):
        return _from_proto(model)
    if isinstance(model, bytes | bytearray | memoryview):
        return _from_bytes(bytes(model), "the given bytes")
    if isinstance(model, str | os.PathLike):
        return _from_path(Path(model))
    if is_estimator(model):
        from onnxtune.estimators import to_onnx
        from onnxtune.fitted_columns import check_columns

        check_columns(model, data)
        return _from_proto(to_onnx(model, data), type(model).__name__)
    raise ModelError(
        f"A model is a path, bytes, an onnx.ModelProto or a fitted estimator, "
        f"not {type(model).__name__}."
    )


def is_estimator(model: ModelLike) -> bool:
    """Whether a model argument is to be exported first."""
    return any(hasattr(model, name) for name in ("predict", "transform", "fit"))


def _from_path(path: Path) -> Model:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise ModelError(f"{path}: is a folder, not an ONNX file.") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ModelError(f"{path}: cannot be read ({_reason(error)}).") from None
    return _from_bytes(content, str(path), path)


def _from_bytes(content: bytes, origin: str, path: Path | None = None) -> Model:
    if not content:
        raise ModelError(f"{origin}: is empty, not an ONNX model.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{origin}: is not an ONNX model, or was cut short.") from None
    _check_graph(proto, origin)
    if _has_external_data(proto.graph):
        _load_external_data(proto, origin, path)
        content = _serialize(proto, origin)
    return Model(proto, content, origin, path)


def _from_proto(proto: onnx.ModelProto, origin: str = "the given model") -> Model:
    _check_graph(proto, origin)
    if _has_external_data(proto.graph):
        _load_external_data(proto, origin, None)
    return Model(proto, _serialize(proto, origin), origin)


def _serialize(proto: onnx.ModelProto, origin: str) -> bytes:
    try:
        return bytes(proto.SerializeToString())
    except (EncodeError, ValueError):
        raise ModelError(
            f"{origin}: is larger than 2 GiB, the limit of one protobuf message."
        ) from None


def _check_graph(proto: onnx.ModelProto, origin: str) -> None:
    """Refuse what parses but is no model: any prefix of a file that ends between two fields does.

    onnxruntime takes a model that does not import the operator sets it uses, and guesses them.
    """
    missing = ""
    if not proto.HasField("graph") or not proto.graph.output or not proto.opset_import:
        missing = "it has no graph outputs or no operator sets"
    imported = {opset.domain or "ai.onnx" for opset in proto.opset_import}
    for node in proto.graph.node:
        if (node.domain or "ai.onnx") not in imported and not missing:
            missing = f"it uses operators of {node.domain or 'ai.onnx'}, but does not import them"
    if missing:
        raise ModelError(f"{origin}: is not an ONNX model, or was cut short ({missing}).")


def _has_external_data(graph: onnx.GraphProto) -> bool:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [
        *graph.initializer,
        *(a.t for a in attributes),
        *(t for a in attributes for t in a.tensors),
    ]
    graphs = [
        *(a.g for a in attributes if a.HasField("g")),
        *(g for a in attributes for g in a.graphs),
    ]
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in tensors) or any(
        map(_has_external_data, graphs)
    )


def _load_external_data(proto: onnx.ModelProto, origin: str, path: Path | None) -> None:
    """Read the tensors that lie in files beside the model into it."""
    if path is None:
        raise ModelError(f"{origin}: keeps tensors in other files; give the path of the model.")
    from onnx.external_data_helper import load_external_data_for_model

    try:
        load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{origin}: its external data cannot be read ({_reason(error)})."
        ) from None


def is_one_of(path: Path, files: Iterable[str | os.PathLike[str] | None]) -> bool:
    """Whether it is one of these files, by whatever name; None stands for what is no file."""
    return any(file is not None and _same_file(path, file) for file in files)


def check_output(
    path: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str] | None],
    others: Iterable[str | os.PathLike[str] | None] = (),
) -> Path:
    """Refuse a path that nothing can be written to, or that is one of the inputs.

    Args:
        path: where something is to be written.
        inputs: files that are read; None stands for what is no file.
        others: files that are written, too.

    Raises:
        ArgumentError: with what to do instead.
    """
    target = Path(path)
    try:
        if is_one_of(target, inputs):
            raise ArgumentError(f"{target}: is an input file; give another output path.")
        if is_one_of(target, others):
            raise ArgumentError(f"{target}: is given for two outputs; give each its own path.")
        # A link is written through, so what it points to decides.
        found = target.resolve()
        if found.is_dir():
            raise ArgumentError(f"{target}: is a folder; give the name of a file.")
        if found.exists() and not found.is_file():
            raise ArgumentError(f"{target}: is no regular file; give another output path.")
        if not found.parent.is_dir():
            raise ArgumentError(f"{target}: the folder {found.parent} does not exist.")
        if not all(os.access(p, os.W_OK) for p in (found, found.parent) if p.exists()):
            raise ArgumentError(f"{target}: cannot be written; check the permissions.")
    except (OSError, RuntimeError) as error:  # too long a name, or links in a circle
        raise ArgumentError(f"{target}: cannot be written ({_reason(error)}).") from None
    return target


def _same_file(first: Path, second: str | os.PathLike[str]) -> bool:
    """Whether two paths name one file, which need not be there."""
    if first.exists() and os.path.exists(second):
        return first.samefile(second)
    return first.resolve() == Path(second).resolve()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or none: beside the target first, then renamed over it.

    Raises:
        ArgumentError: the file cannot be written.
    """
    try:
        target = Path(path).resolve()
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".onnxtune-")
    except (OSError, RuntimeError) as error:
        raise ArgumentError(f"{path}: cannot be written ({_reason(error)}).") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise ArgumentError(f"{path}: cannot be written ({_reason(error)}).") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """The permissions that the file has, or that a new one gets."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
