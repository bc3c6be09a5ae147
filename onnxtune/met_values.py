"""The values that the thresholds of a model meet on given rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxtune.calibration import matrices
from onnxtune.ensembles import ensembles
from onnxtune.preparation import Prepared
from rewrites.core.rewrite import Array


def met_values(
    prepared: Prepared, names: Sequence[str], feed: Mapping[str, Array]
) -> dict[str, tuple[Array, Array]]:
    """Of each tensor of thresholds [P] what its node reads, [N, F], and each one's feature, [P].

    Those are left out whose node reads no numeric matrix or does not tell the features.
    """
    by_node = {name.rsplit("/", 1)[0]: name for name in names}
    found = {}
    for node, own in ensembles(prepared, by_node):
        read = node.inputs[0]
        if read is not None:
            found[by_node[str(node.name)]] = (str(read.name), own.features(node))
    met = matrices(prepared, feed, sorted({value for value, _ in found.values()}))
    return {name: (met[value], own) for name, (value, own) in found.items() if value in met}
