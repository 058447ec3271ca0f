"""What runs an engine: one module a backend, one runner protocol."""

from engines.backends.base import Availability, Runner

__all__ = ["Availability", "Runner"]
