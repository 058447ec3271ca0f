"""Nodes of an ONNX graph in the order that ONNX demands: makers before readers."""

from __future__ import annotations

import graphlib
from typing import Any


def put_in_order(graph: Any) -> None:
    """Sort the nodes of an ``onnx.GraphProto`` in place. ONNX Runtime's own conversion to fp16 does not keep them sorted.

    Raises ValueError for a graph that runs in a circle.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    needs = {p: [makers[name] for name in node.input if name in makers] for p, node in enumerate(graph.node)}
    ordered = [graph.node[place] for place in graphlib.TopologicalSorter(needs).static_order()]
    del graph.node[:]
    graph.node.extend(ordered)
