"""Where decisions' time goes: receipts, spans, percentiles, who is to blame, which waits would do."""

from pipeline.latency.histograms import LatencySummary
from pipeline.latency.receipts import attribute, compute_only, stamped

__all__ = ["LatencySummary", "attribute", "compute_only", "stamped"]
