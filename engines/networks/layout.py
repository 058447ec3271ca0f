"""What a fusion network reads and gives, whatever its scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MASK_STATES = ("present", "quiet", "absent")
"""The columns of a fusion network's one-hot ``mask``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionLayout:
    """The shape of one scenario's fusion: streams with their tokens, heads with their labels, and the memory.

    Raises ValueError when streams and token counts do not pair up.
    """

    streams: tuple[str, ...]
    token_counts: tuple[int, ...]
    """Tokens of each stream, in the order of ``streams``."""
    heads: Mapping[str, tuple[str, ...]]
    """Head to its labels; the first label is the one without an alarm."""
    memory_entries: int
    """At most this many past fusion tokens are kept (K)."""
    memory_step_s: float
    """Entries lie at least this far apart in reference time."""
    shared_width: int = 4
    """Width of a stream's shared part: small, so that streams' distributions can be made alike in batches of a hundred ticks."""

    def __post_init__(self) -> None:
        """Check that the parts agree."""
        if not self.streams or len(self.streams) != len(self.token_counts):
            raise ValueError(f"streams {self.streams} and token_counts {self.token_counts} must pair up")

    @property
    def tokens(self) -> int:
        """Tokens of all streams together."""
        return sum(self.token_counts)
