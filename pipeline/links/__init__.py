"""How a message travels from one stage to the next on one host: through shared memory, or inside one process."""

from pipeline.links.base import EdgeSpec, Inbox, LinkError, Outlet

__all__ = ["EdgeSpec", "Inbox", "LinkError", "Outlet"]
