"""No library of ours reports home: what runs in a car or at a bedside sends nothing that its owner did not ask for."""

from __future__ import annotations

import os
import sys


def silence_reporting() -> None:
    """Called before a backend's library is imported: afterwards is too late for both.

    ONNX Runtime, from 1.29 on Linux too, keeps a database of sessions in ``~/.cache/Microsoft`` and sends it to its vendor.
    OpenVINO reports through a module of its own when it is imported, and goes on without where that module cannot be.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
