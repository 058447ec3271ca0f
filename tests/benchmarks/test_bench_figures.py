"""From what contenders left behind to figures: nothing that is missing or different may pass for good."""

import numpy as np

from benchmarks.before_after import FIGURES, KINDS
from benchmarks.before_after import outcome as before_after_outcome
from benchmarks.beside_peers import agreement_of
from benchmarks.hops.schedule import Phase, Schedule
from benchmarks.transport import sort_phase

PHASES = (
    Phase(name="paced", size=64, period_ns=10, count=3),
    Phase(name="full", size=64, period_ns=0, count=0, for_ns=1_000_000_000),
)


def test_three_senders_count_until_the_last_is_there_and_a_torn_set_does_not():
    schedule = Schedule(phases=PHASES, senders=3)
    received = np.array([[0, 0, 100, 110], [0, 1, 100, 130], [0, 2, 100, 120], [1, 0, 200, 210], [1, 2, 200, 215]])
    hops: list[np.ndarray] = []
    sort_phase(schedule, 0, received, hops, [])
    assert [h.tolist() for h in hops] == [[30]]


def test_saturated_phase_gives_a_rate_and_no_latency():
    schedule = Schedule(phases=PHASES)
    first, start_ns = schedule.first_seq(1), schedule.starts_ns[1]
    received = np.array([[first + k, 0, start_ns, start_ns + (k + 1) * 4_000_000] for k in range(500)])
    hops: list[np.ndarray] = []
    rates: list[float] = []
    sort_phase(schedule, 1, received, hops, rates)
    assert (hops, rates) == ([], [250.0]), "500 messages, the last of them after 2 s"


def test_after_is_held_against_before_round_by_round():
    rounds = {"before": [np.full(200, 4_000_000), np.full(200, 8_000_000)], "after": [np.full(200, 2_000_000)] * 2}
    figures = {
        figure: {f"{kind}, {which}": list(values) for kind in KINDS for which, values in rounds.items()} for figure in FIGURES
    }
    cpu_ms = {name: [9.0, 9.0] if "before" in name else [3.0, 6.0] for name in figures["share"]}
    summary = before_after_outcome(figures, cpu_ms, "abc", 2).summary
    found = summary["runtime share on Ray, p99: after / before"]
    assert (found["median"], found["least"], found["greatest"]) == (0.375, 0.25, 0.5)
    assert summary["CPU time inline: after / before"]["median"] == 0.5


def made(references: list[int], outputs: list[list[float]], actions: list[int]) -> dict[str, np.ndarray]:
    return {"reference_ns": np.array(references), "outputs": np.array(outputs, np.float32), "action": np.array(actions)}


def test_contender_that_decides_otherwise_or_less_is_found_out_and_stays_so():
    whole = made([0, 50, 100], [[0.1], [0.2], [0.3]], [0, 0, 1])
    assert agreement_of(whole, whole, None) == "all 3 equal"
    off = agreement_of(made([0, 50, 100], [[0.1], [0.2000001], [0.3]], [0, 0, 1]), whole, "all 3 equal")
    assert off == "2 of 3 equal, 0 not decided"
    assert agreement_of(whole, whole, off) == off, "a later round does not make it good"
    assert agreement_of({**whole, "action": np.array([0, 1, 1])}, whole, None) == "2 of 3 equal, 0 not decided"
    assert agreement_of(made([0, 100], [[0.1], [0.3]], [0, 1]), whole, None) == "2 of 3 equal, 1 not decided"
    assert agreement_of(made([0, 70], [[0.1], [0.2]], [0, 0]), whole, None).startswith("1 of 3 equal")
