"""A model argument becomes a `Model`: the parsed graph beside the bytes it came from."""

from __future__ import annotations

import hashlib
import os
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
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, onnx.ModelProto):
        return _from_proto(model)
    if isinstance(model, bytes | bytearray | memoryview):
        return _from_bytes(bytes(model), "the given bytes")
    if isinstance(model, str | os.PathLike):
        return _from_path(Path(model))
    if hasattr(model, "predict") or hasattr(model, "transform"):
        from onnxtune.estimators import to_onnx

        return _from_proto(to_onnx(model, data), type(model).__name__)
    raise ModelError(
        f"A model is a path, bytes, an onnx.ModelProto or a fitted estimator, "
        f"not {type(model).__name__}."
    )


def _from_path(path: Path) -> Model:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise ModelError(f"{path}: is a folder, not an ONNX file.") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}).") from None
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
    if path is not None and _has_external_data(proto):
        from onnx.external_data_helper import load_external_data_for_model

        try:
            load_external_data_for_model(proto, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{origin}: its external data cannot be read ({error}).") from None
        content = _serialize(proto, origin)
    return Model(proto, content, origin, path)


def _from_proto(proto: onnx.ModelProto, origin: str = "the given model") -> Model:
    _check_graph(proto, origin)
    return Model(proto, _serialize(proto, origin), origin)


def _serialize(proto: onnx.ModelProto, origin: str) -> bytes:
    try:
        return proto.SerializeToString()
    except (EncodeError, ValueError):
        raise ModelError(
            f"{origin}: is larger than 2 GiB, the limit of one protobuf message."
        ) from None


def _check_graph(proto: onnx.ModelProto, origin: str) -> None:
    if not proto.HasField("graph") or not proto.graph.output or not proto.opset_import:
        raise ModelError(
            f"{origin}: is not an ONNX model, or was cut short "
            "(it has no graph outputs or no operator sets)."
        )


def _has_external_data(proto: onnx.ModelProto) -> bool:
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in proto.graph.initializer)


def check_output(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None]) -> Path:
    """Refuse an output path that is one of the inputs, a folder, or in a folder that is not there.

    Raises:
        ArgumentError: with what to do instead.
    """
    target = Path(path)
    for source in inputs:
        if source is not None and target.exists() and target.samefile(source):
            raise ArgumentError(f"{target}: is the input file; give another output path.")
    if target.is_dir():
        raise ArgumentError(f"{target}: is a folder; give the name of a file.")
    if not target.parent.is_dir():
        raise ArgumentError(f"{target}: the folder {target.parent} does not exist.")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise ArgumentError(f"{target}: cannot be written; check the permissions.")
    return target


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or none: beside the target first, then renamed over it.

    Raises:
        ArgumentError: the file cannot be written.
    """
    target = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise ArgumentError(f"{target}: cannot be written ({error.strerror}).") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise ArgumentError(f"{target}: cannot be written ({error.strerror}).") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
