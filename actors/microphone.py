"""The microphone's ingest actor."""

from __future__ import annotations

from actors.ingest import IngestActor
from actors.stage import as_actor


class Microphone(IngestActor):
    """Blocks of sound: stamped, announced, decoded, sent to the encoder."""


MicrophoneActor = as_actor(Microphone)
