"""Which errors are the user's to mend: each names the file, field or stream, and the fix."""

from __future__ import annotations

from engines.manifest import EngineError
from pipeline.config import ConfigError
from pipeline.links.base import LinkError
from pipeline.logs.records import LogError
from pipeline.recorded_admission import NotReproducible
from pipeline.sinks.base import SinkError
from pipeline.sources.base import SourceError, SourceLost


class UsageError(Exception):
    """Arguments that do not go together, or something that is not installed."""


class RunFailed(Exception):
    """A run that began could not go on."""


MENDABLE = (
    UsageError,
    RunFailed,
    ConfigError,
    EngineError,
    LinkError,
    LogError,
    NotReproducible,
    SinkError,
    SourceError,
    SourceLost,
)


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    return one_line_of(str(error))


def one_line_of(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())
