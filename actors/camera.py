"""The camera's ingest actor."""

from __future__ import annotations

from actors.ingest import IngestActor
from actors.stage import as_actor


class Camera(IngestActor):
    """Frames: stamped at acquisition, announced, decoded, sent to the encoder."""


CameraActor = as_actor(Camera)
