"""Meshes of coloured quads and boxes for simulated scenes. ``core`` is the module panda3d.core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float, float, float, tuple[float, float, float]]
"""x0, x1, y0, y1, z0, z1, colour."""


def mesh_node(core: Any, quads: NDArray[np.float32], colours: NDArray[np.float32]) -> Any:
    """A GeomNode of ``quads`` float32 ``[n, 4, 3]`` in one colour each, ``colours`` ``[n, 3]``, 0 to 1."""
    data = core.GeomVertexData("quads", core.GeomVertexFormat.get_v3c4(), core.Geom.UH_dynamic)
    data.set_num_rows(len(quads) * 4)
    vertex, colour = core.GeomVertexWriter(data, "vertex"), core.GeomVertexWriter(data, "color")
    triangles = core.GeomTriangles(core.Geom.UH_static)
    for index, (quad, rgb) in enumerate(zip(quads.tolist(), colours.tolist(), strict=True)):
        for corner in quad:
            vertex.add_data3(*corner)
            colour.add_data4(*rgb, 1.0)
        first = index * 4
        triangles.add_vertices(first, first + 1, first + 2)
        triangles.add_vertices(first, first + 2, first + 3)
    geom = core.Geom(data)
    geom.add_primitive(triangles)
    node = core.GeomNode("mesh")
    node.add_geom(geom)
    return node


def boxes_node(core: Any, boxes: Sequence[Box]) -> Any:
    """A GeomNode of boxes without undersides, each side shaded by the way it faces."""
    quads, colours = [], []
    for x0, x1, y0, y1, z0, z1, rgb in boxes:
        faces = (
            (((x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)), 0.75),
            (((x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)), 0.75),
            (((x0, y0, z0), (x0, y1, z0), (x0, y1, z1), (x0, y0, z1)), 0.6),
            (((x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)), 0.55),
            (((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)), 1.0),
        )
        for corners, shade in faces:
            quads.append(corners)
            colours.append([c * shade for c in rgb])
    return mesh_node(core, np.array(quads, np.float32), np.array(colours, np.float32))
