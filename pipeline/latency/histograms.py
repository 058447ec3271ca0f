"""Percentiles over many latencies: HdrHistogram's, and none that the number of values cannot carry."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS = 1_000, 60_000_000_000, 3
WARM_UP_NS = 2_000_000_000
"""Latency figures leave out what is decided in the first two seconds of a run."""
CONFIDENCE_Z = 1.959964
"""Of a normal distribution, for 95%."""


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

    def count(self, part: str) -> int:
        """How many values were counted."""
        histogram = self._histograms.get(part)
        return 0 if histogram is None else int(histogram.get_total_count())  # type: ignore[attr-defined]

    def interval_ns(self, part: str, percent: float) -> tuple[int, int] | None:
        """A 95% confidence interval of a percentile, or None where the values cannot carry one.

        Between two order statistics, whose ranks the binomial distribution gives whatever the values' distribution is (Hahn and
        Meeker, "Statistical Intervals", 1991, section 5.2, in its normal approximation). It takes the values for independent.
        """
        if self.percentile_ns(part, percent) is None:
            return None
        count, share = self.count(part), percent / 100
        spread = CONFIDENCE_Z * math.sqrt(count * share * (1 - share))
        low, high = math.floor(count * share - spread), math.ceil(count * share + spread) + 1
        if low < 1 or high > count:
            return None
        histogram = self._histograms[part]
        values = [int(histogram.get_value_at_percentile(100 * rank / count)) for rank in (low, high)]  # type: ignore[attr-defined]
        return values[0], min(values[1], self._maximum_ns[part])
