"""The simulated bedside camera: a low-poly hospital bed, drawn by panda3d's software display.

Not a medical device; simulation. Needs neither a GPU nor a display; panda3d (the ``sim`` extra) is imported when a `Renderer`
is entered. A frame is a pure function of the course and the frame's index.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.offscreen import Offscreen
from pipeline.scenarios.patient.bedside import Bedside
from pipeline.scenarios.patient.course import GRID_HZ, HIDDEN, Course

WIDTH, HEIGHT = 160, 120
FRAME_RATE_HZ = GRID_HZ
FIELD_DEGREES = 52.0
_DARK = HIDDEN.index("dark")
_NOISE_VALUES = WIDTH * HEIGHT * 3


class Renderer:
    """Draws simulated camera frames. A context manager; may be used for many courses and be opened again.

    Raises RuntimeError when panda3d is missing or its software display cannot be opened.
    """

    def __init__(self) -> None:
        self._course: Course | None = None
        self._noise_base = np.random.Generator(np.random.PCG64(7)).standard_normal(_NOISE_VALUES * 2, dtype=np.float32)
        self._noise = np.zeros(0, np.int16)

    def __enter__(self) -> Self:
        self._screen = Offscreen(WIDTH, HEIGHT)
        core: Any = self._screen.core
        self._root = core.NodePath("world")
        self._root.set_two_sided(True)
        lit = self._root.attach_new_node("lit")
        self._lit = lit
        self._bedside = Bedside(core, lit, self._root.attach_new_node("glow"))
        lens = core.PerspectiveLens()
        lens.set_aspect_ratio(WIDTH / HEIGHT)
        lens.set_fov(FIELD_DEGREES)
        lens.set_near_far(0.2, 12.0)
        self._camera = self._root.attach_new_node(core.Camera("bedside", lens))
        region = self._screen.buffer.make_display_region(0.0, 1.0, 0.0, 1.0)
        region.set_camera(self._camera)
        region.set_clear_color_active(True)
        region.set_clear_depth_active(True)
        region.set_clear_color((0.0, 0.0, 0.0, 1.0))
        return self

    def __exit__(self, *exc: object) -> None:
        self._screen.close()
        self._root.remove_node()
        self._course = None

    def frame(self, course: Course, index: int) -> NDArray[np.uint8]:
        """The simulated frame ``index`` of the course, at ``index / 10`` s: uint8 ``[120, 160, 3]``, RGB."""
        if course is not self._course:
            self._start(course)
        if course.hidden[index] == _DARK:
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        else:
            self._bedside.pose(course, index)
            image = self._screen.drawn()
        offset = 3 * ((course.seed * 7919 + index * 104729) % (_NOISE_VALUES // 3))
        noisy = self._noise[offset : offset + _NOISE_VALUES].reshape(image.shape) + image
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)

    def _start(self, course: Course) -> None:
        self._course = course
        rng = np.random.Generator(np.random.PCG64([course.seed, 7]))
        light = course.room.daylight
        self._lit.set_color_scale(light, light, min(1.0, light * 1.05), 1.0)
        self._noise = np.rint(self._noise_base * course.room.camera_noise).astype(np.int16)
        x, y, z = rng.uniform(-0.12, 0.12), -3.15 + rng.uniform(-0.08, 0.08), 2.15 + rng.uniform(-0.1, 0.1)
        self._camera.set_pos(x, y, z)
        self._camera.look_at(0.05, 0.0, 0.72)
        self._bedside.start(course)
