"""What stands at the simulated bedside: bed, patient, nurse, curtain. Used by `scene.Renderer` only.

Not a medical device; simulation. Axes: x from head to foot of the bed, y away from the camera, z up, metres; the bed's middle is
the origin. ``core`` is the module panda3d.core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.scenarios.mesh import Box, boxes_node
from pipeline.scenarios.patient.course import HIDDEN, PLETH, POSTURES, Course

_WHITE = (1.0, 1.0, 1.0)
_STEEL, _DARK, _SHEET = (0.6, 0.62, 0.65), (0.12, 0.12, 0.14), (0.92, 0.93, 0.95)
_CHEST_Z, _CHEST_RISE = 0.72, 0.42
"""A full breath lifts the chest's top by this share of its height of 0.25 m: five pixels."""
_ROOM = [
    (-4.0, 4.0, 1.6, 1.7, 0.0, 3.2, _WHITE),
]
_FLOOR = [(-4.0, 4.0, -3.0, 1.6, -0.05, 0.0, (0.55, 0.55, 0.52)), (-1.0, 1.0, -1.35, -0.62, 0.0, 0.03, (0.35, 0.45, 0.6))]
_BED = [
    (-1.1, 1.1, -0.5, 0.5, 0.35, 0.55, _STEEL),
    (-1.05, -1.0, -0.5, 0.5, 0.0, 0.35, _DARK),
    (1.0, 1.05, -0.5, 0.5, 0.0, 0.35, _DARK),
    (-1.05, 1.05, -0.46, 0.46, 0.55, 0.72, _SHEET),
    (-1.15, -1.1, -0.5, 0.5, 0.35, 1.15, _STEEL),
    (-1.0, -0.62, -0.3, 0.3, 0.72, 0.82, _SHEET),
]
_MONITOR = [
    (-1.75, -1.15, 0.9, 1.1, 1.25, 1.75, _DARK),
    (-1.7, -1.2, 0.89, 0.9, 1.3, 1.7, (0.1, 0.2, 0.25)),
    (-1.47, -1.43, 1.0, 1.05, 0.0, 1.25, _STEEL),
]
_POLE = [(1.35, 1.39, 0.7, 0.74, 0.0, 2.1, _STEEL), (1.27, 1.47, 0.68, 0.76, 1.75, 2.1, (0.8, 0.85, 0.9))]
_TABLE = [(1.35, 1.95, -0.3, 0.3, 0.7, 0.76, _WHITE), (1.6, 1.7, -0.05, 0.05, 0.0, 0.7, _STEEL)]
_HEAD: list[Box] = [
    (-0.12, 0.12, -0.1, 0.1, 0.0, 0.22, (1.0, 1.0, 1.0)),
    (-0.13, -0.05, -0.11, 0.11, 0.0, 0.23, (0.2, 0.16, 0.14)),
]
_CHEST: list[Box] = [(-0.28, 0.28, -0.21, 0.21, 0.0, 0.25, _WHITE)]
_ELECTRODES: list[Box] = [
    (x - 0.035, x + 0.035, y - 0.04, y + 0.04, 0.25, 0.262, (0.15, 0.15, 0.15))
    for x, y in ((-0.15, -0.12), (-0.15, 0.12), (0.12, -0.12))
]
_BELLY: list[Box] = [(0.28, 0.62, -0.2, 0.2, 0.0, 0.2, _WHITE)]
_LEGS: list[Box] = [(0.62, 1.28, -0.19, -0.02, 0.0, 0.15, (0.9, 0.9, 0.9)), (0.62, 1.28, 0.02, 0.19, 0.0, 0.15, (0.9, 0.9, 0.9))]
_BLANKET: list[Box] = [(0.1, 1.02, -0.5, 0.5, 0.72, 1.0, _WHITE), (0.1, 1.02, -0.52, -0.5, 0.45, 1.0, (0.85, 0.85, 0.85))]
_FLAT_BLANKET: list[Box] = [(0.0, 1.02, -0.5, 0.5, 0.72, 0.78, _WHITE), (0.4, 1.02, -0.52, -0.5, 0.45, 0.78, (0.85, 0.85, 0.85))]
_THICK: list[Box] = [(-0.6, 0.12, -0.5, 0.5, 0.72, 1.16, (0.93, 0.93, 0.93))]
_FOREARM: list[Box] = [(0.0, 0.36, -0.055, 0.055, -0.05, 0.05, _WHITE), (0.36, 0.47, -0.06, 0.06, -0.05, 0.05, (1.0, 0.95, 0.92))]
_UPPER_ARM: list[Box] = [(-0.28, 0.05, -0.33, -0.21, 0.05, 0.17, _WHITE)]
_LAMP: list[Box] = [(-0.06, 0.06, -0.06, 0.06, -0.06, 0.06, (1.0, 0.06, 0.03))]
_SITTING_GOWN: list[Box] = [
    (-0.24, 0.24, -0.62, -0.36, 0.7, 1.25, _WHITE),
    (-0.24, 0.24, -0.72, -0.4, 0.66, 0.78, (0.85, 0.85, 0.85)),
]
_SITTING_SKIN: list[Box] = [
    (-0.22, -0.05, -0.72, -0.58, 0.15, 0.66, (0.9, 0.9, 0.9)),
    (0.05, 0.22, -0.72, -0.58, 0.15, 0.66, (0.9, 0.9, 0.9)),
    (-0.11, 0.11, -0.6, -0.4, 1.28, 1.52, _WHITE),
]
_SITTING_HAIR: list[Box] = [(-0.12, 0.12, -0.6, -0.38, 1.48, 1.56, (0.2, 0.16, 0.14))]
_NURSE: list[Box] = [(-0.24, 0.24, -0.13, 0.13, 0.0, 1.4, _WHITE), (-0.12, 0.12, -0.14, 0.0, 0.9, 1.3, (0.85, 0.85, 0.85))]
_NURSE_SKIN: list[Box] = [
    (-0.1, 0.1, -0.1, 0.1, 1.43, 1.68, (0.85, 0.65, 0.53)),
    (-0.24, -0.12, -0.6, -0.1, 1.02, 1.12, (0.85, 0.65, 0.53)),
    (0.12, 0.24, -0.6, -0.1, 1.02, 1.12, (0.85, 0.65, 0.53)),
]
_CURTAIN: list[Box] = [
    (x, x + 0.25, -1.62, -1.6, 0.0, 3.2, (0.8 + 0.18 * (i % 2), 0.82 + 0.16 * (i % 2), 0.85 + 0.15 * (i % 2)))
    for i, x in enumerate(np.arange(-3.0, 3.0, 0.25).tolist())
]
_VISITOR: list[Box] = [(-3.0, 3.0, -1.9, -1.7, 0.0, 3.2, _WHITE), (-0.05, 0.05, -1.95, -1.9, 0.0, 3.2, (0.8, 0.8, 0.8))]


class Bedside:
    """Everything before the camera."""

    def __init__(self, core: Any, lit: Any, glow: Any) -> None:
        self._core, self._made = core, 0
        self._wall = self._new(_ROOM, lit)
        self._new(_FLOOR, lit)
        self._shown = lit.attach_new_node("shown")
        self._hiders = lit.attach_new_node("hiders")
        self._glow = glow
        for boxes in (_BED, _MONITOR, _POLE):
            self._new(boxes, self._shown)
        self._table = self._new(_TABLE, self._shown)
        self._lie = self._shown.attach_new_node("lying")
        self._sit = self._shown.attach_new_node("sitting")
        self._chest = self._new(_CHEST, self._lie)
        self._electrodes = self._new(_ELECTRODES, self._chest)
        self._belly, self._legs, self._upper = (self._new(b, self._lie) for b in (_BELLY, _LEGS, _UPPER_ARM))
        self._head = self._new(_HEAD, self._lie)
        self._arms = [self._new(_FOREARM, self._lie) for _ in range(3)]
        self._far_arm = self._new(_FOREARM, self._lie)
        self._sitting_gown, self._sitting_skin = self._new(_SITTING_GOWN, self._sit), self._new(_SITTING_SKIN, self._sit)
        self._new(_SITTING_HAIR, self._sit)
        self._sitting_arms = [self._new(_FOREARM, self._sit) for _ in range(3)]
        self._blanket, self._flat, self._thick = (self._new(b, self._shown) for b in (_BLANKET, _FLAT_BLANKET, _THICK))
        self._nurse = self._shown.attach_new_node("nurse")
        self._nurse_gown = self._new(_NURSE, self._nurse)
        self._new(_NURSE_SKIN, self._nurse)
        self._curtain, self._visitor = self._new(_CURTAIN, self._hiders), self._new(_VISITOR, self._hiders)
        self._lamp = self._new(_LAMP, glow)

    def _new(self, boxes: Sequence[Box], parent: Any) -> Any:
        path = parent.attach_new_node(boxes_node(self._core, boxes))
        # Where two surfaces coincide the first one drawn is seen. Left alone, panda3d draws in the order of its pointers.
        self._made += 1
        path.set_bin("fixed", self._made)
        return path

    def start(self, course: Course) -> None:
        """Paint what is the course's own."""
        room = course.room
        rng = np.random.Generator(np.random.PCG64([course.seed, 1]))
        self._wall.set_color_scale(*room.wall, 1.0)
        for path in (self._chest, self._belly, self._upper, self._sitting_gown):
            path.set_color_scale(*room.gown, 1.0)
        # the electrodes hang on the chest, whose colour they would take
        self._electrodes.set_color_scale(*(1.0 / c for c in room.gown), 1.0)
        for path in (self._head, self._legs, self._far_arm, self._sitting_skin, *self._arms, *self._sitting_arms):
            path.set_color_scale(*room.skin, 1.0)
        for path in (self._blanket, self._flat, self._thick):
            path.set_color_scale(*room.blanket, 1.0)
        self._nurse_gown.set_color_scale(*room.nurse, 1.0)
        self._curtain.set_color_scale(*rng.uniform(0.5, 0.95, 3), 1.0)
        self._visitor.set_color_scale(*rng.uniform(0.15, 0.7, 3), 1.0)
        self._table.set_color_scale(*rng.uniform(0.3, 0.9, 3), 1.0)

    def pose(self, course: Course, index: int) -> None:
        """Put everything where it is at frame ``index``. What is hidden is not drawn at all."""
        hidden = HIDDEN[course.hidden[index]]
        for path, on in (
            (self._shown, hidden == "clear"),
            (self._glow, hidden == "clear"),
            (self._curtain, hidden == "curtain"),
            (self._visitor, hidden == "visitor"),
        ):
            (path.unstash if on else path.stash)()
        if hidden == "clear":
            self._posed(course, index)

    def _posed(self, course: Course, index: int) -> None:
        posture = POSTURES[course.posture[index]]
        lying, floor = posture == "lying", posture == "floor"
        covered = bool(course.covered[index])
        for path, on in (
            (self._lie, posture != "edge"),
            (self._sit, posture == "edge"),
            (self._blanket, lying),
            (self._flat, not lying),
            (self._thick, lying and covered),
            (self._nurse, bool(course.nurse[index])),
        ):
            (path.unstash if on else path.stash)()
        self._lie.set_pos(0.0, -1.0 if floor else 0.0, 0.04 if floor else _CHEST_Z)
        self._nurse.set_pos(-0.3, -0.5 if floor else 0.78, -0.62 if floor else 0.0)
        limp = bool(course.limp[index])
        breath = 0.5 - 0.5 * float(np.cos(course.breath_phase[index]))
        rise = 0.0 if floor else _CHEST_RISE * float(course.effort[index]) * breath
        self._chest.set_pos(-0.3, 0.0, 0.0)
        self._chest.set_scale(1.0, 1.0, 1.0 + rise)
        self._belly.set_x(-0.3)
        self._legs.set_x(-0.3)
        self._upper.set_x(-0.3)
        self._head.set_pos_hpr(-0.78, -0.2 if limp else 0.0, 0.06 if limp else 0.1, 0.0, 0.0, -68.0 if limp else 0.0)
        self._far_arm.set_pos_hpr(-0.2, 0.3, 0.3, 0.0, 0.0, 0.0)
        self._move_arms(course, index, limp, posture)
        off = PLETH[course.pleth[index]] == "off"
        self._light(posture, off)

    def _move_arms(self, course: Course, index: int, limp: bool, posture: str) -> None:
        """The free arm: at rest, hanging, or moving; fast movement smears it over three places."""
        moving = bool(course.moving[index])
        hz = float(course.motion_hz[index])
        arms = self._sitting_arms if posture == "edge" else self._arms
        for number, arm in enumerate(arms):
            if moving:
                seconds = float(course.times_s[index]) - 0.035 * number
                angle = 58.0 + 34.0 * float(np.sin(2 * np.pi * hz * seconds))
            else:
                angle = 0.0
            # a hand at rest lies forward; one that hangs points to the floor beside the bed
            if posture == "edge":
                arm.set_pos_hpr(0.24, -0.62, 0.95, -60.0, 0.0, -angle)
            elif limp and not moving and posture == "lying":
                arm.set_pos_hpr(-0.28, -0.6, 0.02, 0.0, 0.0, 84.0)
            else:
                above = 0.34 if moving and posture == "lying" and course.covered[index] else 0.0
                arm.set_pos_hpr(-0.25, -0.33, 0.14 + above, 0.0, 0.0, -angle)
            if number and not moving:
                arm.stash()
            else:
                arm.unstash()

    def _light(self, posture: str, off: bool) -> None:
        """The probe's red light: on the far hand, or where it fell."""
        if off:
            self._lamp.set_pos(1.15, -0.62, 0.35)
        elif posture == "lying":
            self._lamp.set_pos(0.27, 0.3, 1.12)
        elif posture == "edge":
            self._lamp.set_pos(-0.3, -0.7, 0.85)
        else:
            self._lamp.set_pos(0.27, -0.7, 0.46)
