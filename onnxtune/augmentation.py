"""Training rows, changed a little in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxtune.errors import ArgumentError
from rewrites.core.rewrite import Array

Feed = Mapping[str, Array]

# (input name -> array of all training rows, generator) -> the same, changed.
Augment = Callable[[dict[str, Array], np.random.Generator], Feed]


@dataclass(frozen=True)
class Augmentation:
    """What is done to the training rows before each epoch, and never to others.

    `noise` is that of float inputs in units of each column's standard deviation; `function` gets
    copies of all inputs. `seed` is that of both.
    """

    noise: float
    function: Augment | None
    seed: int

    def apply(self, feed: Feed, epoch: int) -> dict[str, Array]:
        """The rows of an epoch, counted from 1.

        Raises:
            ArgumentError: the function returns other inputs, shapes or types.
        """
        rng = np.random.default_rng([self.seed, epoch])
        found = {name: self._noisy(array, rng) for name, array in feed.items()}
        return found if self.function is None else _checked(self.function, found, rng)

    def _noisy(self, array: Array, rng: np.random.Generator) -> Array:
        if not self.noise or array.dtype.kind != "f":
            return array.copy()
        finite = np.where(np.isfinite(array), array, np.nan)
        held = np.isfinite(finite).any(axis=0)
        spread = np.zeros(array.shape[1:])
        # In float64: squares would overflow in the input's own type.
        spread[held] = np.nanstd(finite[:, held].astype(np.float64), axis=0)
        noise = self.noise * spread * rng.standard_normal(array.shape)
        return np.asarray(array + noise, array.dtype)


def _checked(
    function: Augment, feed: dict[str, Array], rng: np.random.Generator
) -> dict[str, Array]:
    shapes = {name: (array.shape, array.dtype) for name, array in feed.items()}
    found = function(feed, rng)
    name = getattr(function, "__name__", "augment")
    if not isinstance(found, Mapping) or set(found) != set(shapes):
        raise ArgumentError(
            f"augment: '{name}' must return a mapping of the inputs "
            f"{', '.join(sorted(shapes))} to arrays."
        )
    made = {}
    for key, (shape, dtype) in shapes.items():
        array = np.asarray(found[key])
        if array.shape != shape or (array.dtype != dtype and "O" in (array.dtype.kind, dtype.kind)):
            raise ArgumentError(
                f"augment: '{name}' returned {array.dtype} of shape {list(array.shape)} for input "
                f"'{key}', which has {dtype} of shape {list(shape)}."
            )
        made[key] = np.require(array, dtype, ["C", "W"])
    return made
