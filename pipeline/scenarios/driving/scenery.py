"""What stands in the simulated scene: ground, traffic, obstacles, lights. Used by `scene.Renderer` only.

Axes as in `drive.Drive`: y ahead, x to the right, z up, metres; we are at the origin. ``core`` is the module panda3d.core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import SOURCES, Drive
from pipeline.scenarios.mesh import Box, boxes_node, mesh_node

_WORK = SOURCES.index("work lights")
_AHEAD, _OPPOSITE = SOURCES.index("ahead"), SOURCES.index("opposite")
_GLASS, _TYRE = (0.12, 0.14, 0.18), (0.08, 0.08, 0.08)
_SLOT_M, _SLOTS_BEHIND, _SLOTS = 22.0, 3, 11
_CARS = [
    (-0.9, 0.9, -2.1, 2.1, 0.3, 0.95, (1.0, 1.0, 1.0)),
    (-0.75, 0.75, -1.5, 0.9, 0.95, 1.5, _GLASS),
    (-0.9, 0.9, -2.0, 2.0, 0.0, 0.3, _TYRE),
]
_TRUCK = [
    (-1.25, 1.25, -4.0, 2.0, 0.7, 3.4, (1.0, 1.0, 1.0)),
    (-1.2, 1.2, 2.0, 4.0, 0.5, 2.7, (0.6, 0.6, 0.65)),
    (-1.2, 1.2, -4.0, 4.0, 0.0, 0.7, _TYRE),
]
_VAN = [
    (-1.0, 1.0, -2.6, 2.6, 0.4, 2.3, (0.95, 0.95, 0.92)),
    (-1.02, 1.02, -2.62, 2.62, 0.9, 1.25, (0.85, 0.15, 0.1)),
    (-0.9, 0.9, -2.63, 2.63, 1.4, 2.0, _GLASS),
    (-1.0, 1.0, -2.4, 2.4, 0.0, 0.4, _TYRE),
]
_TOW = [
    (-1.0, 1.0, 0.6, 2.6, 0.4, 2.2, (0.9, 0.7, 0.1)),
    (-1.0, 1.0, -2.6, 0.6, 0.4, 0.9, (0.3, 0.3, 0.3)),
    (-0.9, 0.9, 2.5, 2.63, 1.3, 1.9, _GLASS),
    (-1.0, 1.0, -2.4, 2.4, 0.0, 0.4, _TYRE),
]
_WALKERS = [
    box
    for x in (-0.8, 0.0, 0.8)
    for box in (
        (x - 0.22, x + 0.22, -0.2, 0.2, 0.0, 0.85, (0.15, 0.2, 0.5)),
        (x - 0.32, x + 0.32, -0.2, 0.2, 0.85, 1.45, (0.95, 0.75, 0.1)),
        (x - 0.14, x + 0.14, -0.14, 0.14, 1.45, 1.75, (0.85, 0.65, 0.5)),
    )
]
_GANTRY = [
    (2.4, 2.6, -0.1, 0.1, 0.0, 3.7, (0.3, 0.3, 0.3)),
    (-0.6, 2.6, -0.1, 0.1, 3.6, 3.8, (0.3, 0.3, 0.3)),
    (-0.5, 0.5, -0.15, 0.15, 2.5, 3.7, (0.05, 0.05, 0.05)),
    (-1.7, 1.7, -1.3, -0.7, 0.01, 0.02, (0.95, 0.95, 0.95)),
]
_CONE = [(-0.22, 0.22, -0.22, 0.22, 0.0, 0.9, (1.0, 0.45, 0.05)), (-0.17, 0.17, -0.23, 0.17, 0.45, 0.62, (1.0, 1.0, 1.0))]
_TREE = [
    (-0.2, 0.2, -0.2, 0.2, 0.0, 2.0, (0.35, 0.25, 0.15)),
    (-1.6, 1.6, -1.6, 1.6, 2.0, 5.5, (0.15, 0.4, 0.15)),
]
_PAINT = ((0.75, 0.1, 0.1), (0.15, 0.25, 0.6), (0.8, 0.8, 0.82), (0.2, 0.2, 0.22), (0.2, 0.45, 0.3), (0.85, 0.8, 0.6))


class _Sheet:
    """A mesh whose vertices follow the bend of the road: x grows by half curvature times y squared."""

    def __init__(self, core: Any, parent: Any, quads: list[Any], colours: list[Any]) -> None:
        self._base = np.array(quads, np.float32).reshape(-1, 3)
        self.path = parent.attach_new_node(mesh_node(core, np.array(quads, np.float32), np.array(colours, np.float32)))

    def bend(self, curvature: float, shift_y: float = 0.0) -> None:
        array = self.path.node().modify_geom(0).modify_vertex_data().modify_array(0)
        rows = np.frombuffer(memoryview(array).cast("B"), np.float32).reshape(-1, 4)
        y = self._base[:, 1] + np.float32(shift_y)
        rows[:, 0] = self._base[:, 0] + np.float32(0.5 * curvature) * y * y
        rows[:, 1] = y


class Ground:
    """Grass, road, marks, and the divider."""

    _CUTS = (-70, -40, -22, -12, -6, 0, 4, 8, 13, 20, 28, 38, 52, 70, 95, 130, 180, 250)
    _DASH_M = 9.0

    def __init__(self, core: Any, parent: Any) -> None:
        grass, tar, mark = (0.3, 0.42, 0.2), (0.33, 0.33, 0.35), (0.9, 0.9, 0.88)
        common = [(-160, 160, grass), (1.75, 6.0, (0.38, 0.38, 0.39))]
        lines = [(1.7, 1.9, mark)]
        plain = [*common, (-5.4, 1.75, tar), *lines, (-5.4, -5.2, mark)]
        divided = [*common, (-14.5, -6.9, tar), (-5.6, 1.75, tar), *lines, (-5.4, -5.2, mark), (-7.2, -7.0, mark)]
        self._sheets = [self._flat(core, parent, plain), self._flat(core, parent, divided)]
        dashes = [
            [(-1.82, y, 0), (-1.62, y, 0), (-1.62, y + 3.5, 0), (-1.82, y + 3.5, 0)] for y in np.arange(-5, 14) * self._DASH_M
        ]
        self._dashes = _Sheet(core, parent, dashes, [mark] * len(dashes))
        for order, sheet in enumerate([*self._sheets, self._dashes]):
            sheet.path.set_bin("background", order)
            sheet.path.set_depth_test(False)
            sheet.path.set_depth_write(False)
        wall, colours = [], []
        for y0, y1 in zip(self._CUTS, self._CUTS[1:], strict=False):
            for z0, z1, shade in ((0.0, 0.35, 0.5), (0.35, 0.95, 0.75)):
                wall.append([(-6.25, y0, z0), (-6.25, y1, z0), (-6.25, y1, z1), (-6.25, y0, z1)])
                colours.append((shade, shade, shade * 0.95))
        self._wall = _Sheet(core, parent, wall, colours)
        self._wall.path.set_bin("fixed", 0)
        self._active = self._sheets[0]

    def _flat(self, core: Any, parent: Any, strips: list[Any]) -> _Sheet:
        quads, colours = [], []
        for x0, x1, rgb in strips:
            for y0, y1 in zip(self._CUTS, self._CUTS[1:], strict=False):
                quads.append([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)])
                colours.append(rgb)
        return _Sheet(core, parent, quads, colours)

    def start(self, drive: Drive) -> None:
        """Choose the cross-section of the drive."""
        divider = drive.surroundings.divider
        self._active = self._sheets[int(divider)]
        self._sheets[int(not divider)].path.stash()
        self._active.path.unstash()
        if divider:
            self._wall.path.unstash()
        else:
            self._wall.path.stash()

    def pose(self, position_m: float, curvature: float) -> None:
        """Bend the road and move its marks."""
        self._active.bend(curvature)
        self._wall.bend(curvature)
        self._dashes.bend(curvature, -(position_m % self._DASH_M))


class Props:
    """Everything on the ground. Things far away are made at least a few pixels large where they are lamps."""

    def __init__(self, core: Any, lit: Any, glow: Any) -> None:
        self._core, self._lit, self._glow = core, lit, glow
        self._made = 0
        new = self._new
        self._lead_car, self._lead_truck, self._truck_behind, self._truck_ahead = new(_CARS), *(new(_TRUCK) for _ in range(3))
        self._standing, self._walkers, self._gantry = new(_CARS), new(_WALKERS, glow), new(_GANTRY)
        self._van, self._tow = new(_VAN), new(_TOW)
        self._cones = [new(_CONE, glow) for _ in range(8)]
        self._oncoming = [new(_CARS) for _ in range(3)]
        self._parked = [new(_CARS) for _ in range(_SLOTS)]
        self._trees = [new(_TREE) for _ in range(_SLOTS)]
        block = [(-0.5, 0.5, -0.5, 0.5, 0.0, 1.0, (1.0, 1.0, 1.0))]
        self._houses = [new(block) for _ in range(2 * _SLOTS)]
        lamp = [(-0.5, 0.5, -0.1, 0.1, -0.5, 0.5, (1.0, 1.0, 1.0))]
        self._lamps = [self._new(lamp, glow) for _ in range(14)]
        self._lit_lamps = 0
        self._bend = 0.0
        self._phase: NDArray[np.float64] = np.zeros(64)
        self._night = False

    def _new(self, boxes: Sequence[Box], parent: Any = None) -> Any:
        path = (parent or self._lit).attach_new_node(boxes_node(self._core, boxes))
        # Where two surfaces coincide the first one drawn is seen. Left alone, panda3d draws in the order of its pointers.
        self._made += 1
        path.set_bin("fixed", self._made)
        path.stash()
        return path

    def start(self, drive: Drive) -> None:
        """Paint and place what is the drive's own."""
        rng = np.random.Generator(np.random.PCG64([drive.seed, 1]))
        self._phase = rng.random(64)
        self._night = drive.surroundings.daylight < 0.45
        for car in (*self._oncoming, *self._parked, self._lead_car, self._standing):
            car.set_color_scale(*_PAINT[int(rng.integers(len(_PAINT)))], 1.0)
        for truck in (self._lead_truck, self._truck_behind, self._truck_ahead):
            truck.set_color_scale(*(rng.uniform(0.45, 0.9, 3)), 1.0)
        reflected = max(0.65, drive.surroundings.daylight)  # our headlamps on bright clothes and cones
        for path in (self._walkers, *self._cones):
            path.set_color_scale(reflected, reflected, reflected, 1.0)
        for house in self._houses:
            tint = rng.uniform(0.35, 0.75)
            house.set_color_scale(tint, tint * rng.uniform(0.85, 1.0), tint * rng.uniform(0.7, 1.0), 1.0)

    def _at(self, path: Any, x: float, y: float, heading: float = 0.0) -> None:
        path.unstash()
        path.set_pos_hpr(x + self._bend * y * y, y, 0.0, heading, 0.0, 0.0)

    def _lamp(self, x: float, y: float, z: float, size: float, rgb: tuple[float, float, float]) -> None:
        lamp = self._lamps[self._lit_lamps]
        self._lit_lamps += 1
        lamp.unstash()
        lamp.set_pos(x + self._bend * y * y, y, z)
        lamp.set_scale(size, 1.0, size)
        lamp.set_color_scale(*rgb, 1.0)

    def _pair(self, x: float, y: float, z: float, apart: float, size: float, rgb: tuple[float, float, float]) -> None:
        self._lamp(x - apart, y, z, size, rgb)
        self._lamp(x + apart, y, z, size, rgb)

    def pose(self, drive: Drive, index: int) -> None:
        """Put everything where it is at frame ``index``."""
        for lamp in self._lamps[: self._lit_lamps]:
            lamp.stash()
        self._lit_lamps = 0
        self._bend = 0.5 * float(drive.curvature_per_m[index])
        self._roadside(drive, index)
        self._traffic(drive, index)
        self._obstacle(drive, index)
        self._siren(drive, index)

    def _roadside(self, drive: Drive, index: int) -> None:
        position = float(drive.position_m[index])
        first = int(position // _SLOT_M) - _SLOTS_BEHIND
        left_edge = -17.0 if drive.surroundings.divider else -9.0
        for offset in range(_SLOTS):
            slot = first + offset
            y = slot * _SLOT_M - position
            place = slot % _SLOTS
            dice = self._phase[(slot * 7) % 61]
            right, left = self._houses[2 * place], self._houses[2 * place + 1]
            right.set_scale(8.0, 13.0, 4.0 + 9.0 * dice)
            left.set_scale(8.0, 15.0, 12.0 - 8.0 * dice)
            if dice < 0.7:
                self._at(right, 14.0 + 5.0 * dice, y)
            else:
                right.stash()
            if dice > 0.25:
                self._at(left, left_edge - 6.0 - 4.0 * dice, y)
            else:
                left.stash()
            self._at(self._trees[place], 8.5 + 3.0 * dice, y + 9.0 * dice)
            if dice > 0.68:
                self._at(self._parked[place], 4.5, y + 4.0)
            else:
                self._parked[place].stash()
        shift = position % 8.0
        for number, cone in enumerate(self._cones):
            if drive.zone[index]:
                self._at(cone, 2.3, 6.0 + number * 8.0 - shift)
            else:
                cone.stash()

    def _traffic(self, drive: Drive, index: int) -> None:
        seconds, position = float(drive.frame_times_s[index]), float(drive.position_m[index])
        x = -9.0 if drive.surroundings.divider else -3.6
        yielding = int(drive.siren_source[index]) == _AHEAD
        for number, car in enumerate(self._oncoming):
            y = (self._phase[number] * 60 + number * 75 - position - seconds * 11.0) % 225.0 - 45.0
            if number > 2 * self._phase[10] + 0.5 or yielding:
                car.stash()
                continue
            self._at(car, x, y, 180.0)
            if self._night and y > 0:
                self._pair(x, y - 2.2, 0.7, 0.65, 0.25 + 0.004 * y, (1.0, 1.0, 0.8))
        lead, truck = float(drive.lead_m[index]), bool(drive.lead_truck[index])
        for path, shown in ((self._lead_car, lead == lead and not truck), (self._lead_truck, lead == lead and truck)):
            if shown:
                self._at(path, 0.0, lead + (4.0 if truck else 2.1))
            else:
                path.stash()
        if lead == lead:
            braking = bool(drive.lead_braking[index])
            rgb = (1.0, 0.05, 0.02) if braking else (0.4, 0.03, 0.03)
            self._pair(0.0, lead - 0.1, 0.85, 0.75, 0.5 if braking else 0.25, rgb)
        behind, ahead = float(drive.truck_behind_m[index]), float(drive.truck_ahead_m[index])
        for path, there, x, y in (
            (self._truck_behind, behind, -0.2, -behind - 4.0),
            (self._truck_ahead, ahead, -0.6, ahead + 4.0),
        ):
            if there == there:
                self._at(path, x, y)
            else:
                path.stash()

    def _obstacle(self, drive: Drive, index: int) -> None:
        kind = int(drive.obstacle[index]) if drive.obstacle_visible[index] else 0
        y = float(drive.obstacle_m[index])
        for path, number in ((self._standing, 1), (self._walkers, 2), (self._gantry, 3)):
            if kind == number:
                self._at(path, 0.0, y + (2.1 if kind == 1 else 0.7))
            else:
                path.stash()
        if kind == 1:
            self._pair(0.0, y - 0.1, 0.85, 0.75, 0.3 + 0.007 * y, (1.0, 0.05, 0.02))
        elif kind == 3:
            self._lamp(0.0, y + 0.4, 3.3, 0.5 + 0.012 * y, (1.0, 0.05, 0.02))
            self._lamp(2.5, y + 0.4, 1.7, 0.3 + 0.006 * y, (1.0, 0.05, 0.02))  # seen when we stand below the other

    def _siren(self, drive: Drive, index: int) -> None:
        source = int(drive.siren_source[index])
        x, y = float(drive.siren_x_m[index]), float(drive.siren_y_m[index])
        shown = bool(drive.siren_visible[index]) and abs(y) < 220.0
        for path, own in ((self._van, source != _WORK), (self._tow, source == _WORK)):
            if shown and own:
                self._at(path, x, y, 180.0 if source in (_AHEAD, _OPPOSITE) else 0.0)
            else:
                path.stash()
        if not shown:
            return
        left_on = int(float(drive.frame_times_s[index]) * 6.0 + 64 * self._phase[20]) % 2 == 0
        colour = int(drive.light_colour[index])
        pair = (((0.1, 0.25, 1.0), (1.0, 0.1, 0.1)), ((1.0, 0.6, 0.0),) * 2, ((0.1, 0.25, 1.0),) * 2)[colour]
        size = 0.45 + 0.011 * abs(y)
        for side, rgb, on in ((-1, pair[0], left_on), (1, pair[1], not left_on)):
            shade = 1.0 if on else 0.45
            face = -2.9 if y > 0 else 2.9
            self._lamp(x + side * (0.3 + 0.5 * size), y + face, 2.45 + 0.3 * size, size, tuple(shade * c for c in rgb))  # type: ignore[arg-type]
