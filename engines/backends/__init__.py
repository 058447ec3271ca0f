"""What runs an engine: one module a backend, one runner protocol."""

from engines.backends.base import Availability, BackendUnavailable, DeviceFault, Runner, RunnerOptions

__all__ = ["Availability", "BackendUnavailable", "DeviceFault", "Runner", "RunnerOptions"]
