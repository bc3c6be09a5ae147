"""The form that a file is in, as its metadata say; only the native one is tuned."""

from __future__ import annotations

from typing import Literal

import onnx

from onnxtune.errors import UnsupportedError
from onnxtune.model import Model

# The native form, like any other model, has no such entry.
FORM_KEY = "onnxtune.form"


def mark(proto: onnx.ModelProto, form: Literal["soft", "hard"]) -> None:
    """Write the form into a model's metadata; one that is hard or soft already stays in its own."""
    if saved_form(proto) is None:
        facts = {entry.key: entry.value for entry in proto.metadata_props}
        onnx.helper.set_model_props(proto, facts | {FORM_KEY: form})


def saved_form(proto: onnx.ModelProto) -> str | None:
    """ "hard" or "soft", as the metadata say; None for any other model."""
    form = next((e.value for e in proto.metadata_props if e.key == FORM_KEY), None)
    return form if form in ("soft", "hard") else None


def check_native(source: Model) -> Model:
    """The model, unless it is in the hard or the soft form.

    Raises:
        UnsupportedError: it is.
    """
    form = saved_form(source.proto)
    if form is None:
        return source
    raise UnsupportedError(
        f"{source.origin}: is the {form} form of a model, as `onnxtune convert` writes it; tune "
        "the model that it was made from (the native form), where trees are still trees."
    )
