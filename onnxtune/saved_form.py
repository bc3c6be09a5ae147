"""The form that a file is in, as its metadata say; only the native one is tuned."""

from __future__ import annotations

from typing import Literal

import onnx

from onnxtune.errors import UnsupportedError
from onnxtune.model import Model

# The native form, like any other model, has no such entry.
FORM_KEY = "onnxtune.form"


def mark(proto: onnx.ModelProto, form: Literal["soft", "hard"]) -> None:
    """Write the form into a model's metadata."""
    for entry in proto.metadata_props:
        if entry.key == FORM_KEY:
            entry.value = form
            return
    proto.metadata_props.add(key=FORM_KEY, value=form)


def check_native(source: Model) -> Model:
    """The model, unless it is in the hard or the soft form.

    Raises:
        UnsupportedError: it is.
    """
    form = next((e.value for e in source.proto.metadata_props if e.key == FORM_KEY), None)
    if form not in ("soft", "hard"):
        return source
    raise UnsupportedError(
        f"{source.origin}: is the {form} form of a model, as `onnxtune convert` writes it; tune "
        "the model that it was made from (the native form), where trees are still trees."
    )
