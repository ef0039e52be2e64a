"""Checks whether an ONNX network normalises its own input."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The largest difference between a constant in the file and the expected one: float16's rounding.
TOLERANCE = 1e-3


def normalises(path: Path, mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> bool:
    """Whether a network subtracts `mean` and divides by `deviation` before its first convolution.

    Adding the negated mean and multiplying by the inverse deviation also count.

    Args:
        path: an ONNX file.
        mean: the mean of each channel.
        deviation: the standard deviation of each channel.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path, load_external_data=False).graph
    constants = {each.name: each for each in graph.initializer}
    inverse = np.reciprocal(deviation, dtype=np.float32)
    wanted = {"Sub": mean, "Add": -mean, "Div": deviation, "Mul": inverse}
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv":
            break
        if node.op_type == "Constant":
            values = [each.t for each in node.attribute if each.name == "value"]
            constants |= zip(node.output, values, strict=False)
        for name in node.input if node.op_type in wanted else ():
            tensor = constants.get(name)
            if tensor is None or np.prod(tensor.dims) != mean.size:
                continue
            channels = numpy_helper.to_array(tensor).astype(np.float32).ravel()
            if np.allclose(channels, wanted[node.op_type], atol=TOLERANCE):
                found.add(node.op_type)
    return bool(found & {"Sub", "Add"}) and bool(found & {"Div", "Mul"})
