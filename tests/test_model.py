"""Model arguments and files: what is read, what is refused, what is written."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from sklearn.linear_model import LinearRegression

from onnxtune.errors import ArgumentError, DataError, ModelError
from onnxtune.model import Model, check_output, load, write
from onnxtune.runtime import run

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
scaled (float[N, 3] X) => (float[N, 3] Y) <float[3] W = {1, 2, 3}> {
  A = ai.onnx.ml.Scaler<offset: floats = [1.0], scale: floats = [2.0]>(X)
  Y = Mul(A, W)
}
"""
PROTO = parser.parse_model(TEXT)
# Another order of fields than protobuf's own, as other writers of ONNX have it.
CONTENT = onnx.ModelProto(graph=PROTO.graph).SerializeToString() + (
    onnx.ModelProto(ir_version=8, opset_import=PROTO.opset_import).SerializeToString()
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- load ---


def test_a_file_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(CONTENT)
    assert onnx.ModelProto.FromString(CONTENT).SerializeToString() != CONTENT
    for argument in (path, str(path)):
        model = load(argument)
        assert model.content == CONTENT
        assert (model.path, model.origin) == (path, str(path))
        assert model.fingerprint == sha256(CONTENT).hexdigest()
        assert model.proto.graph == PROTO.graph


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes(kind: Any) -> None:
    model = load(kind(CONTENT))
    assert (model.content, model.path) == (CONTENT, None)
    assert type(model.content) is bytes


def test_a_proto_and_a_model() -> None:
    model = load(PROTO)
    assert model.proto is PROTO and model.content == PROTO.SerializeToString()
    assert load(model) is model


def test_an_estimator() -> None:
    X = np.eye(3, dtype=np.float32)
    fitted = LinearRegression().fit(X, [1.0, 2.0, 3.0])
    model = load(fitted, X)
    assert model.origin == "LinearRegression"
    (found,) = run(model.proto, {model.proto.graph.input[0].name: X}).values()
    np.testing.assert_allclose(found.ravel(), [1, 2, 3], rtol=1e-5)


@pytest.mark.parametrize("argument", [None, 3, [PROTO], {"a": PROTO}, PROTO.graph])
def test_what_is_no_model(argument: Any) -> None:
    with pytest.raises(ModelError, match=type(argument).__name__):
        load(argument)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / ("x" * 300))
    with pytest.raises(ModelError, match="cannot be read"):
        load("null\0byte")
    (tmp_path / "file").write_bytes(CONTENT)
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "file" / "below")


def changed(**fields: Any) -> bytes:
    proto = onnx.ModelProto.FromString(CONTENT)
    for name, value in fields.items():
        proto.ClearField(name)  # type: ignore[arg-type]
        if value is not None:
            getattr(proto, name).extend(value)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (CONTENT[:-1], "cut short"),
        (b"\x89PNG\r\n\x1a\n", "not an ONNX model"),
        (b"hello", "not an ONNX model"),
        (PROTO.graph.SerializeToString(), "not an ONNX model"),
        (changed(graph=None), "no graph outputs"),
        (changed(opset_import=None), "no operator sets"),
        (changed(opset_import=[helper.make_opsetid("", 17)]), r"operators of ai\.onnx\.ml, but"),
        (changed(opset_import=[helper.make_opsetid("ai.onnx.ml", 3)]), r"operators of ai\.onnx,"),
    ],
)
def test_content_that_is_no_model(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"^the given bytes: .*{said}"):
        load(content)
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"m\.onnx: .*{said}"):
        load(path)


def test_the_default_domain_has_two_names() -> None:
    proto = onnx.ModelProto.FromString(CONTENT)
    proto.opset_import[0].domain = "ai.onnx"
    assert load(proto).proto is proto


# --- External data ---


def external(folder: Path, attribute: bool = False) -> Path:
    """A model whose tensor lies in a file beside it: an initializer, or that of a Constant."""
    proto = onnx.ModelProto.FromString(CONTENT)
    del proto.graph.initializer[:]
    value = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "W")
    if attribute:
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=value))
    else:
        proto.graph.initializer.append(value)
    path = folder / "m.onnx"
    onnx.save(
        proto,
        path,
        save_as_external_data=True,
        location="m.bin",
        size_threshold=0,
        convert_attribute=attribute,
    )
    assert (folder / "m.bin").stat().st_size == 12
    return path


@pytest.mark.parametrize("attribute", [False, True])
def test_external_data_are_read(attribute: bool, tmp_path: Path) -> None:
    model = load(external(tmp_path, attribute))
    (tmp_path / "m.bin").unlink()
    X = np.ones((2, 3), np.float32)
    assert run(model.content, {"X": X})["Y"].tolist() == [[0, 0, 0]] * 2
    assert run(model.proto, {"X": X + 1})["Y"].tolist() == [[2, 4, 6]] * 2
    assert b"m.bin" not in model.content


def test_external_data_that_are_not_there(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "m.bin").write_bytes(b"1234")
    with pytest.raises(ModelError, match=r"m\.onnx: its external data cannot be read"):
        load(path)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.onnx: its external data cannot be read"):
        load(path)


@pytest.mark.parametrize("attribute", [False, True])
def test_external_data_without_a_path(attribute: bool, tmp_path: Path) -> None:
    content = external(tmp_path, attribute).read_bytes()
    with pytest.raises(ModelError, match="give the path"):
        load(content)
    with pytest.raises(ModelError, match="give the path"):
        load(onnx.ModelProto.FromString(content))


# --- check_output ---


def test_outputs_that_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old").write_bytes(b"old")
    Path("source").write_bytes(b"source")
    Path("link").symlink_to("old")
    Path("ahead").symlink_to("nothing-yet")
    for name in ("new", "old", "link", "ahead", str(tmp_path / "new")):
        assert check_output(name, ["source", None, "missing"], ["other", None]) == Path(name)
    assert names(tmp_path) == ["ahead", "link", "old", "source"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("source", "is an input file"),
        ("./deep/../source", "is an input file"),
        ("link", "is an input file"),
        ("twin", "is an input file"),
        ("planned", "is an input file"),  # an input that is not there yet is one all the same
        ("other", "two outputs"),
        ("deep/../other", "two outputs"),
        ("deep", "is a folder"),
        ("folder-link", "is a folder"),
        ("", "is a folder"),
        ("missing/new", "does not exist"),
        ("source/new", "does not exist"),
        ("astray", "does not exist"),
        ("loop", "cannot be written"),
        ("x" * 300, "cannot be written"),
        (os.devnull, "no regular file"),
    ],
)
def test_outputs_that_may_not(
    path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("source").write_bytes(b"source")
    Path("deep").mkdir()
    Path("link").symlink_to("source")
    os.link("source", "twin")
    Path("folder-link").symlink_to("deep")
    Path("astray").symlink_to("missing/new")
    Path("loop").symlink_to("loop")
    with pytest.raises(ArgumentError, match=said):
        check_output(path, ["source", "planned"], ["other"])


def test_outputs_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the system, since root may write anywhere."""
    locked = tmp_path / "locked"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    locked.mkdir()
    with pytest.raises(ArgumentError, match="permissions"):
        check_output(locked / "new", [])
    assert check_output(tmp_path / "new", [])


# --- write ---


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "new"
    write(path, b"one")
    assert path.read_bytes() == b"one"
    write(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["new"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "new", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o600)
    write(tmp_path / "new", b"newer")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/file")
    for content in (b"one", b"two"):
        write(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "deep" / "file").read_bytes() == content
    assert names(tmp_path / "deep") == ["file"]


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_leaves_everything_as_it_was(
    step: str,
    error: BaseException,
    old: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    monkeypatch.setattr(os, step, fail)
    with pytest.raises((ArgumentError, KeyboardInterrupt)) as caught:
        write(path, b"new")
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path}: cannot be written (No space left on device)."
    assert names(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be written"):
        write(tmp_path / "gone" / "file", b"")


def test_a_model_is_frozen() -> None:
    model = Model(PROTO, CONTENT, "m")
    with pytest.raises(AttributeError):
        model.origin = "other"  # type: ignore[misc]


def test_columns_in_another_order_than_the_estimator_s() -> None:
    pandas = pytest.importorskip("pandas")
    from sklearn.linear_model import LinearRegression

    table = pandas.DataFrame({"a": [1.0, 2.0, 4.0], "b": [0.0, 1.0, 1.0]})
    fitted = LinearRegression().fit(table, [1.0, 2.0, 3.0])
    load(fitted, table.assign(y=1.0))
    with pytest.raises(DataError, match="fitted with the columns a, b; the data have b, a"):
        load(fitted, table[["b", "a"]])
    with pytest.raises(DataError, match="the data have none of them"):
        load(fitted, table.rename(columns=str.upper))
