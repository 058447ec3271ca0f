"""The text feed's ingest actor."""

from __future__ import annotations

from actors.ingest import IngestActor
from actors.stage import as_actor


class Text(IngestActor):
    """Lines: stamped, announced, decoded, sent to the encoder."""


TextActor = as_actor(Text)
