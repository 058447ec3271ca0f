"""One hop between processes, on Chiasm's link and on six others: 64 bytes to 6 MB, alone and three at once.

Idle (messages far apart), brisk (so close that no core falls asleep) and saturated (as fast as they are taken) are kept apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.comparing import in_turn
from benchmarks.contenders import ContenderFailed, hop_contenders, run_contender
from benchmarks.hops.schedule import Phase, Schedule
from benchmarks.measurement import Check, Outcome, Setting, Skipped, percentiles, run_as_module
from benchmarks.plots import draw_tails
from benchmarks.ratios import percentile_of, ratio_check, ratio_of, spread

TITLE = "One hop between two processes, and from three to one"
ROUNDS, FAN_IN_ROUNDS, QUICK_ROUNDS = 3, 2, 1
FRAME = 640 * 480 * 3
"""900 kB: the frame that the targets speak of."""
IDLE = (
    Phase(name="64 B", size=64, period_ns=5_000_000, count=250),
    Phase(name="64 kB", size=65_536, period_ns=5_000_000, count=250),
    Phase(name="900 kB", size=FRAME, period_ns=10_000_000, count=150),
    Phase(name="6 MB", size=1920 * 1080 * 3, period_ns=40_000_000, count=40),
)
BRISK = (
    Phase(name="64 B, brisk", size=64, period_ns=1_000_000, count=1000),
    Phase(name="900 kB, brisk", size=FRAME, period_ns=2_000_000, count=500),
)
SATURATED = (
    Phase(name="64 B, saturated", size=64, period_ns=0, count=0, for_ns=700_000_000),
    Phase(name="900 kB, saturated", size=FRAME, period_ns=0, count=0, for_ns=700_000_000),
)
WARM_UP = Phase(name="warm-up", size=4_096, period_ns=5_000_000, count=300)
"""Not counted: first messages make memory, channels and threads."""
ONE = Schedule(phases=(WARM_UP, *IDLE, *BRISK, *SATURATED))
THREE = Schedule(phases=(WARM_UP, IDLE[0], IDLE[3]), senders=3)
TARGETS = {"dora": 0.25, "graph": 0.35, "ray": 0.05, "iceoryx2": 1.5}
Hops = Mapping[str, Mapping[str, Sequence[NDArray[np.int64]]]]
"""Phase, then contender, then rounds: latencies in ns."""


def measure(setting: Setting) -> Outcome:
    """Every contender in turn, round after round."""
    hops: dict[str, dict[str, list[NDArray[np.int64]]]] = defaultdict(lambda: defaultdict(list))
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    lost: dict[str, int] = defaultdict(int)
    absent: dict[str, str] = {}
    for schedule, heading, full_rounds in ((ONE, "", ROUNDS), (THREE, "3 x ", FAN_IN_ROUNDS)):
        contenders = hop_contenders(schedule.senders)
        spec, rounds = setting.scratch / f"{schedule.senders}.json", QUICK_ROUNDS if setting.quick else full_rounds
        schedule.save(spec)
        for number in range(rounds):
            for place, name in enumerate(in_turn(list(contenders), number)):
                if name in absent:
                    continue
                share = (number + place / len(contenders)) / rounds
                setting.say(f"from {schedule.senders}, round {number + 1} of {rounds}: {contenders[name].title}", share)
                out = setting.scratch / f"{schedule.senders}-{number}-{name}"
                try:
                    ran = run_contender(contenders[name], spec, out, schedule.end_ns, say=setting.say)
                except (Skipped, ContenderFailed) as reason:
                    absent[name] = str(reason)
                    continue
                received = np.load(ran.folder / "received.npy")
                for k, phase in enumerate(schedule.phases):
                    if phase is not WARM_UP:
                        sort_phase(schedule, k, received, hops[heading + phase.name][name], rates[phase.name][name])
                        lost[name] += phase.count * schedule.senders - len(_rows(schedule, k, received)) if phase.period_ns else 0
    return _outcome(hops, rates, lost, absent)


def _rows(schedule: Schedule, place: int, received: NDArray[np.int64]) -> NDArray[np.int64]:
    seq = received[:, 0]
    return received[(seq >= schedule.first_seq(place)) & (seq < schedule.first_seq(place + 1))]


def sort_phase(schedule: Schedule, place: int, received: NDArray[np.int64], hops: list[Any], rates: list[float]) -> None:
    """One phase's latencies; of three senders, until the last of the three is there. A saturated phase gives a rate instead."""
    rows, phase = _rows(schedule, place, received), schedule.phases[place]
    if not phase.period_ns:
        rates.append(len(rows) / (max(phase.for_ns, rows[-1, 3] - schedule.starts_ns[place]) / 1e9) if len(rows) else 0.0)
        return
    sets: dict[int, list[int]] = defaultdict(list)
    for seq, _, begun_ns, came_ns in rows.tolist():
        sets[seq].append(came_ns - begun_ns)
    whole = [max(latencies) for seq, latencies in sorted(sets.items()) if len(latencies) == schedule.senders]
    hops.append(np.array(whole, np.int64))


def _outcome(
    hops: Hops, rates: Mapping[str, Mapping[str, list[float]]], lost: Mapping[str, int], absent: Mapping[str, str]
) -> Outcome:
    titles = {name: c.title for name, c in hop_contenders(1).items()}
    summary: dict[str, Any] = {"rounds": max((len(r) for p in hops.values() for r in p.values()), default=0)}
    for phase, contenders in hops.items():
        figures = {titles[n]: percentiles(np.concatenate(r), 1e3, 1) for n, r in contenders.items() if r and sum(map(len, r))}
        if figures:
            summary[f"{phase}, us"] = figures
    for phase, by in rates.items():
        found = {titles[n]: f"{np.median(values):.0f}" for n, values in by.items() if values}
        if found:
            summary[f"{phase}, messages/s"] = found
    summary["lost or not taken, paced phases"] = {titles[n]: count for n, count in lost.items()}
    summary["absent"] = dict(absent) or "none"
    checks: list[Check] = []
    for name, target in TARGETS.items():
        for phase, what in (("900 kB, brisk", "brisk"), ("900 kB", "idle")):
            by = hops.get(phase, {})
            found = ratio_of(percentile_of(by.get("chiasm", []), 50), percentile_of(by.get(name, []), 50))
            summary[f"hop, 900 kB, {what}: Chiasm / {titles[name]}"] = spread(found)
            checks.append(ratio_check(f"hop, 900 kB, {what}, p50: Chiasm / {titles[name]}", found, target))
    samples = {
        f"{phase}: {name}": {
            "round": np.repeat(np.arange(len(r)), [len(x) for x in r]),
            "latency_100ns": np.concatenate(r) // 100,
        }
        for phase, by in hops.items()
        for name, r in by.items()
        if r
    }
    panels = {
        phase: {titles[n]: np.concatenate(r) / 1e3 for n, r in hops[phase].items() if r}
        for phase in ("64 B", "900 kB", "900 kB, brisk", "3 x 900 kB")
        if phase in hops
    }
    draw = partial(draw_tails, panels=panels, unit="µs from sent to received", title=TITLE)
    return Outcome(checks=checks, summary=summary, samples=samples, draw=draw)


if __name__ == "__main__":
    run_as_module("transport", TITLE, measure)
