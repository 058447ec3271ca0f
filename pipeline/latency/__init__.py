"""Where decisions' time goes: receipts, spans, percentiles, who is to blame, which waits would do."""

from pipeline.latency.histograms import WARM_UP_NS, LatencySummary
from pipeline.latency.receipts import attribute, compute_only, stamped

__all__ = ["WARM_UP_NS", "LatencySummary", "attribute", "compute_only", "stamped"]
