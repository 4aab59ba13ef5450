"""Nodes and constants on their way to an ONNX graph."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET: Final = 18
IR_VERSION: Final = 9
"""Old enough for every ONNX Runtime of the last years."""


def value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """An input or output of a graph; a name in the shape is an axis of any size."""
    return helper.make_tensor_value_info(name, kind, list(shape))


class GraphBuilder:
    """Names are made up where nobody asks for one."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def integers(self, name: str, values: tuple[int, ...] = ()) -> str:
        """A constant int64 vector; named again without values, the one that is there."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def reshape(self, tensor: str, shape: tuple[int, ...]) -> str:
        name = "shape_" + "_".join(map(str, shape)).replace("-1", "rest")
        return self.node("Reshape", tensor, self.integers(name, shape))

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: int) -> str:
        return self.nodes(kind, *inputs, n_outputs=1, outputs=[output], **attributes)[0]

    def nodes(
        self,
        kind: str,
        *inputs: str,
        n_outputs: int,
        outputs: Sequence[str | None] | None = None,
        **attributes: int,
    ) -> list[str]:
        number = len(self._nodes)
        asked = outputs or [None] * n_outputs
        names = [name or f"{kind.lower()}_{number}_{i}" for i, name in enumerate(asked)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, name, inputs, outputs, list(self._constants.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="nextclick",
        )
