"""Mapping another host's clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import SLEW, ManualClock, MappedClock, SystemClock, clock_domain, offset_of

S = 1_000_000_000


def test_the_quickest_round_decides_and_half_of_it_is_uncertain() -> None:
    found = offset_of([(0, 5_000, 9_000), (10_000, 12_100, 12_200), (20_000, 90_000, 99_000)])
    assert (found.offset_ns, found.uncertainty_ns) == (11_100 - 12_100, 1_100)


def test_without_a_round_there_is_no_offset() -> None:
    with pytest.raises(ValueError, match="no round"):
        offset_of([])


@given(true_ns=st.integers(-(10**15), 10**15), out_ns=st.integers(0, 10**7), back_ns=st.integers(0, 10**7))
def test_the_true_offset_lies_within_the_uncertainty_however_lopsided_the_way(true_ns: int, out_ns: int, back_ns: int) -> None:
    found = offset_of([(1_000, 1_000 + out_ns - true_ns, 1_000 + out_ns + back_ns)])
    assert abs(found.offset_ns - true_ns) <= found.uncertainty_ns + 1


def test_a_mapped_clock_is_the_hosts_until_it_is_steered() -> None:
    host = ManualClock(5 * S)
    clock = MappedClock(host)
    assert clock.now_ns() == 5 * S
    clock.steer(-3 * S, at_once=True)
    assert (clock.now_ns(), clock.from_host_ns(6 * S)) == (2 * S, 3 * S)


@given(corrections_ns=st.lists(st.integers(-5_000_000, 5_000_000), min_size=1, max_size=6), step_ns=st.integers(1_000, 20 * S))
def test_corrections_never_turn_time_back_and_are_reached(corrections_ns: list[int], step_ns: int) -> None:
    host = ManualClock()
    clock = MappedClock(host)
    clock.steer(7 * S, at_once=True)
    shown_ns = clock.now_ns()
    for correction_ns in corrections_ns:
        clock.steer(7 * S + correction_ns)
        for _ in range(5):
            host.advance_ns(step_ns)
            assert clock.now_ns() > shown_ns
            shown_ns = clock.now_ns()
    host.advance_ns(2 * 5_000_000 * SLEW)
    assert clock.now_ns() == host.now_ns() + 7 * S + corrections_ns[-1]


def test_sleeping_is_by_the_mapped_time() -> None:
    host = ManualClock(S)
    clock = MappedClock(host)
    clock.steer(10 * S, at_once=True)
    assert clock.sleep_until_ns(12 * S)
    assert host.now_ns() == 2 * S


def test_this_process_reads_one_clock() -> None:
    assert clock_domain() == clock_domain()
    before_ns = SystemClock().now_ns()
    assert before_ns <= MappedClock().now_ns() <= SystemClock().now_ns()
