"""panda3d's software display, which needs neither a GPU nor a screen. panda3d is imported when one is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Offscreen:
    """A picture of ``width`` x ``height`` to draw into; ``core`` is the module panda3d.core.

    Raises RuntimeError when panda3d is missing or its software display cannot be opened.
    """

    def __init__(self, width: int, height: int) -> None:
        try:
            import panda3d.core as core
        except ImportError as error:
            raise RuntimeError("panda3d is missing: install the extra `sim`") from error
        core.load_prc_file_data("", "window-type offscreen\nload-display p3tinydisplay\naudio-library-name null")
        core.load_prc_file_data("", "notify-level-display error\nnotify-level-tinydisplay error")
        # with it every place that something ever stood at is kept: some 50 kB a frame; the pixels are the same
        core.load_prc_file_data("", "transform-cache 0")
        selection = core.GraphicsPipeSelection.get_global_ptr()
        pipe = selection.make_pipe("TinyOffscreenGraphicsPipe", "p3tinydisplay")
        if pipe is None:
            raise RuntimeError("panda3d has no software display: reinstall panda3d (p3tinydisplay)")
        self.core: Any = core
        self._width, self._height = width, height
        self._engine = core.GraphicsEngine.get_global_ptr()
        properties = core.FrameBufferProperties()
        properties.set_rgb_color(True)
        properties.set_depth_bits(24)
        self.buffer: Any = self._engine.make_output(
            pipe, "camera", 0, properties, core.WindowProperties.size(width, height), core.GraphicsPipe.BF_refuse_window
        )
        if self.buffer is None:
            raise RuntimeError("panda3d could not open its software display")
        self._texture = core.Texture()
        self.buffer.add_render_texture(self._texture, core.GraphicsOutput.RTM_copy_ram)

    def drawn(self) -> NDArray[np.uint8]:
        """Draw now: uint8 ``[height, width, 3]``, RGB."""
        self._engine.render_frame()
        raw = np.frombuffer(self._texture.get_ram_image(), np.uint8).reshape(self._height, self._width, -1)[::-1]
        image = np.empty((self._height, self._width, 3), np.uint8)
        for channel in range(3):  # from BGRA: three strided copies are much faster than one reversed one
            image[:, :, channel] = raw[:, :, 2 - channel]
        return image

    def close(self) -> None:
        """Give the display back."""
        self._engine.remove_window(self.buffer)
