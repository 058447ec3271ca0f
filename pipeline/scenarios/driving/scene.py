"""The simulated camera: a low-poly road scene with a rear-view mirror inset, drawn by panda3d's software display.

Needs neither a GPU nor a display; panda3d (the ``sim`` extra) is imported when a `Renderer` is made. A frame is a pure
function of the drive and the frame's index.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.scenarios.driving.drive import Drive
from pipeline.scenarios.driving.scenery import Ground, Props
from pipeline.scenarios.offscreen import Offscreen

WIDTH, HEIGHT = 320, 192
MIRROR_WIDTH, MIRROR_HEIGHT = 128, 40
MIRROR_LEFT = (WIDTH - MIRROR_WIDTH) // 2
FIELD_DEGREES, MIRROR_DEGREES = 50.0, 26.0
_EYE_M = 1.35
_NOISE_VALUES = WIDTH * HEIGHT * 3


class Renderer:
    """Draws simulated camera frames. A context manager; may be used for many drives and be opened again.

    Raises RuntimeError when panda3d is missing or its software display cannot be opened.
    """

    def __init__(self) -> None:
        self._drive: Drive | None = None
        self._noise_base = np.random.Generator(np.random.PCG64(7)).standard_normal(_NOISE_VALUES * 2, dtype=np.float32)
        self._noise = np.zeros(0, np.int16)

    def __enter__(self) -> Self:
        self._screen = Offscreen(WIDTH, HEIGHT)
        self._build(self._screen.core)
        return self

    def __exit__(self, *exc: object) -> None:
        self._screen.close()
        self._root.remove_node()
        self._drive = None

    def _build(self, core: Any) -> None:
        self._root = core.NodePath("world")
        self._root.set_two_sided(True)
        self._world = self._root.attach_new_node("lit")
        self._glow = self._root.attach_new_node("glow")
        self._ground = Ground(core, self._world)
        self._props = Props(core, self._world, self._glow)
        self._regions = []
        span = (MIRROR_LEFT / WIDTH, (MIRROR_LEFT + MIRROR_WIDTH) / WIDTH, 1 - MIRROR_HEIGHT / HEIGHT, 1.0)
        views = (
            ("front", (0.0, 1.0, 0.0, 1.0), FIELD_DEGREES, WIDTH / HEIGHT, 0.0),
            ("mirror", span, MIRROR_DEGREES, MIRROR_WIDTH / MIRROR_HEIGHT, 180.0),
        )
        for order, (name, area, degrees, aspect, heading) in enumerate(views):
            lens = core.PerspectiveLens()
            lens.set_aspect_ratio(aspect)
            lens.set_fov(degrees)
            lens.set_near_far(0.5, 260.0)
            camera = self._root.attach_new_node(core.Camera(name, lens))
            camera.set_pos(0.0, 0.0 if heading == 0 else -0.5, _EYE_M)
            camera.set_hpr(heading, -2.5 if heading == 0 else 1.5, 0)
            region = self._screen.buffer.make_display_region(*area)
            region.set_camera(camera)
            region.set_sort(order)
            region.set_clear_color_active(True)
            region.set_clear_depth_active(True)
            self._regions.append(region)

    def frame(self, drive: Drive, index: int) -> NDArray[np.uint8]:
        """The simulated frame ``index`` of the drive: uint8 ``[192, 320, 3]``, RGB."""
        if drive is not self._drive:
            self._start(drive)
        self._pose(drive, index)
        image = self._screen.drawn()
        mirror = slice(MIRROR_LEFT, MIRROR_LEFT + MIRROR_WIDTH)
        image[:MIRROR_HEIGHT, mirror] = image[:MIRROR_HEIGHT, mirror][:, ::-1].copy()
        image[MIRROR_HEIGHT : MIRROR_HEIGHT + 2, mirror] = 12
        return self._exposed(image, drive.seed, index)

    def _exposed(self, image: NDArray[np.uint8], seed: int, index: int) -> NDArray[np.uint8]:
        """Sensor noise and mist, which lie in one array because both are added."""
        offset = 3 * ((seed * 7919 + index * 104729) % (_NOISE_VALUES // 3))
        noisy = self._noise[offset : offset + _NOISE_VALUES].reshape(image.shape) + image
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)

    def _start(self, drive: Drive) -> None:
        self._drive = drive
        around = drive.surroundings
        light = around.daylight * (1 - 0.25 * around.rain)
        grey = min(1.0, 0.5 * around.rain + 2.0 * around.mist)
        sky = np.array([light * ((1 - grey) * blue + grey * 0.72) for blue in (0.45, 0.65, 0.92)])
        clear = 1.0 - around.mist
        veil = np.tile(255.0 * around.mist * sky, len(self._noise_base) // 3).astype(np.float32)
        self._noise = np.rint(self._noise_base * around.camera_noise + veil).astype(np.int16)
        for region in self._regions:
            region.set_clear_color((*(clear * sky), 1.0))
        self._world.set_color_scale(light, light, min(1.0, light * 1.08), 1.0)
        self._root.set_color_scale(clear, clear, clear, 1.0)
        self._ground.start(drive)
        self._props.start(drive)

    def _pose(self, drive: Drive, index: int) -> None:
        curvature = float(drive.curvature_per_m[index])
        position = float(drive.position_m[index])
        self._ground.pose(position, curvature)
        self._props.pose(drive, index)
