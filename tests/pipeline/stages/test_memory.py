"""Fusion's memory: bounded, keyed by reference time, serialisable."""

from __future__ import annotations

import base64
import hashlib
import json

import numpy as np

from pipeline.stages.memory import FusionMemory, MemorySpec

MS = 1_000_000
SPEC = MemorySpec(entries=3, step_ns=600 * MS, channels=2)


def _token(value: float) -> np.ndarray:
    return np.array([value, -value], np.float32)


def test_entries_are_a_step_apart_newest_first_and_never_more_than_asked() -> None:
    memory = FusionMemory(SPEC)
    for k in range(61):  # 20 Hz for 3 s: entries at 0, 600, … 3000 ms
        memory.keep(k * 50 * MS, _token(k))
    found = memory.inputs(3050 * MS)
    assert found["memory"][:, 0].tolist() == [60.0, 48.0, 36.0]
    assert np.allclose(found["memory_age_s"], [0.05, 0.65, 1.25]) and found["memory_mask"].tolist() == [1, 1, 1]


def test_an_empty_place_has_mask_zero_and_no_content() -> None:
    memory = FusionMemory(SPEC)
    memory.keep(0, _token(5.0))
    found = memory.inputs(100 * MS)
    assert found["memory_mask"].tolist() == [1, 0, 0]
    assert not found["memory"][1:].any() and not found["memory_age_s"][1:].any()


def test_after_a_long_gap_nothing_is_remembered() -> None:
    memory = FusionMemory(SPEC)
    memory.keep(0, _token(5.0))
    assert memory.inputs(4 * 600 * MS)["memory_mask"].sum() == 1
    assert memory.inputs(4 * 600 * MS + 1)["memory_mask"].sum() == 0


def test_a_token_is_copied_and_the_json_holds_exactly_its_bytes() -> None:
    memory = FusionMemory(SPEC)
    lent = _token(1.5)
    memory.keep(100 * MS, lent)
    lent[:] = 9.0
    memory.keep(700 * MS, _token(2.5))
    (newest_ns, newest), (oldest_ns, oldest) = json.loads(memory.to_json())
    assert (newest_ns, oldest_ns) == (600 * MS, 0)
    assert np.frombuffer(base64.b64decode(oldest), "<f4").tolist() == [1.5, -1.5]
    digest = hashlib.sha256(base64.b64decode(newest)).hexdigest()[:16]
    assert memory.keys() == ((600 * MS, digest), (0, hashlib.sha256(base64.b64decode(oldest)).hexdigest()[:16]))
