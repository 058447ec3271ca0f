"""The telemetry's ingest actor."""

from __future__ import annotations

from actors.ingest import IngestActor
from actors.stage import as_actor


class Telemetry(IngestActor):
    """Blocks of rows: stamped, announced, decoded, sent to the encoder."""


TelemetryActor = as_actor(Telemetry)
