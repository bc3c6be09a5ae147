"""Plots as files: written whole or not at all, without a window."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from typing import Any

from onnxtune.errors import ArgumentError
from onnxtune.model import check_output, write


def write_figure(
    path: str | os.PathLike[str], size: tuple[float, float], draw: Callable[[Any], None]
) -> None:
    """Draw a figure into a file; the name's ending chooses the format.

    Args:
        path: where it goes.
        size: width and height in inches.
        draw: takes the figure.

    Raises:
        ArgumentError: the format is unknown, or the file cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    target = check_output(path, [])
    figure = Figure(figsize=size, layout="constrained")
    kind = target.suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ArgumentError(f"{target}: a plot's name ends with .png, .svg or .pdf.")
    draw(figure)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box: no reason for a warning.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(content, format=kind, dpi=150)
    write(target, content.getvalue())


def plain(text: str) -> str:
    """A text that matplotlib shows as it is: it sets $...$ as a formula."""
    return text.replace("$", r"\$")
