"""Where a decision's time went, and percentiles over many.

The *critical path* of a decision is that of the input that fusion got last. From the capture of its sample to publication:
decode, encode and fuse compute, waiting for a late sensor, and the rest, which is the runtime's own share (queueing, links,
contention, scheduling, policy). Percentiles are HdrHistogram's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.admission import Admission
from pipeline.messages import Spans

LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS = 1_000, 60_000_000_000, 3


def attribute(admission: Admission, *, fuse_ns: int, publish_ns: int) -> Spans:
    """The spans of one live decision (all on one host's clock).

    Waiting is the delay with which the last sample on the critical path came from its sensor, and the time from the last
    owed tokens to the instant at which the last stream settled: fusion could have run, but another sensor might still have
    spoken. A decision at a synthetic time has first waited for the reference stream, until that counted as lost.
    """
    fresh = [w for w in admission.windows if w.tokens is not None and w.arrived_ns >= admission.announced_ns > 0]
    critical = max(fresh, key=lambda w: w.arrived_ns, default=None)
    if critical is None or critical.tokens is None:
        capture_ns, decode_ns, encode_ns, stream = admission.reference_ns, 0, 0, ""
        complete_ns = admission.announced_ns
        delay_ns = max(0, admission.announced_ns - admission.reference_ns) if admission.synthetic else 0
    else:
        tokens = critical.tokens
        delay_ns = tokens.header.delay_ns
        capture_ns, stream = tokens.header.capture_ns, critical.admitted.stream
        decode_ns, encode_ns, complete_ns = tokens.decode_ns, tokens.encode_ns, critical.arrived_ns
    wait_ns = delay_ns + (max(0, admission.settled_ns - complete_ns) if admission.settled_ns else 0)
    total_ns = publish_ns - capture_ns
    return Spans(
        critical_stream=stream,
        total_ns=total_ns,
        decode_ns=decode_ns,
        encode_ns=encode_ns,
        fuse_ns=fuse_ns,
        wait_ns=wait_ns,
        runtime_ns=total_ns - decode_ns - encode_ns - fuse_ns - wait_ns,
    )


def compute_only(admission: Admission, *, fuse_ns: int) -> Spans:
    """The spans of a replayed decision: compute alone, since a replay's waiting and queueing say nothing of a live run."""
    newest = max((w.tokens for w in admission.windows if w.tokens is not None), key=lambda t: t.window_end_ns, default=None)
    decode_ns, encode_ns = (newest.decode_ns, newest.encode_ns) if newest is not None else (0, 0)
    return Spans(
        critical_stream=newest.header.stream if newest is not None else "",
        total_ns=decode_ns + encode_ns + fuse_ns,
        decode_ns=decode_ns,
        encode_ns=encode_ns,
        fuse_ns=fuse_ns,
        wait_ns=0,
        runtime_ns=0,
    )


@dataclass(slots=True)
class LatencySummary:
    """Histograms of the latency of decisions and of its parts, in ns."""

    _histograms: dict[str, object] = field(default_factory=dict)
    _maximum_ns: Counter[str] = field(default_factory=Counter)

    def add(self, part: str, value_ns: int) -> None:
        """Count one value; what lies outside 1 µs to 60 s is put at that end."""
        from hdrh.histogram import HdrHistogram

        histogram = self._histograms.get(part)
        if histogram is None:
            histogram = self._histograms[part] = HdrHistogram(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
        self._maximum_ns[part] = max(self._maximum_ns[part], value_ns)
        histogram.record_value(min(max(value_ns, LOWEST_NS), HIGHEST_NS))  # type: ignore[attr-defined]

    def percentile_ns(self, part: str, percent: float) -> int | None:
        """A percentile, or None where there are too few values to carry it (not one beyond it)."""
        histogram = self._histograms.get(part)
        if histogram is None:
            return None
        count = histogram.get_total_count()  # type: ignore[attr-defined]
        if round(count * (100 - percent), 6) < 100:  # 100 - 99.9 is a little less than 0.1
            return None
        value_ns = int(histogram.get_value_at_percentile(percent))  # type: ignore[attr-defined]
        return min(value_ns, self._maximum_ns[part])  # a bin stands for all values in it, also past the largest

    def maximum_ns(self, part: str) -> int:
        """The largest value, exactly (0 where there is none)."""
        return self._maximum_ns[part]

    def parts(self) -> list[str]:
        """What was counted."""
        return list(self._histograms)
