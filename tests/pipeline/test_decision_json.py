"""A decision survives the trip through JSON bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decision_json import decision_from_json, decision_to_json
from pipeline.messages import Admitted, Availability, Decision, Receipt, Spans

NS = st.integers(-(2**62), 2**62)
NAMES = st.text(max_size=8)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SPANS = st.builds(Spans, critical_stream=NAMES, total_ns=NS, decode_ns=NS, encode_ns=NS, fuse_ns=NS, wait_ns=NS, runtime_ns=NS)
ADMITTED = st.builds(
    Admitted, stream=NAMES, availability=st.sampled_from(Availability), seq=NS, epoch=NS, window_end_ns=NS, age_ns=NS,
    overrun=st.booleans(),
)  # fmt: skip
RECEIPTS = st.builds(
    Receipt,
    admitted=st.lists(ADMITTED, max_size=3).map(tuple),
    spans=SPANS,
    engines=st.dictionaries(NAMES, NAMES, max_size=2),
    config_sha256=NAMES,
    state_sha256=NAMES,
    overrun=st.booleans(),
    synthetic=st.booleans(),
)
OUTPUTS = st.dictionaries(NAMES, st.lists(FLOATS, max_size=4).map(lambda v: np.array(v, dtype=np.float32)), max_size=3)
DECISIONS = st.builds(
    Decision, seq=NS, reference_ns=NS, publish_ns=NS, deadline_ns=NS, status=NAMES, action=NAMES, outputs=OUTPUTS,
    labels=st.dictionaries(NAMES, NAMES, max_size=2), state=NAMES, receipt=st.none() | RECEIPTS,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(DECISIONS)
def test_decision_reads_back_bit_for_bit_from_one_line(decision: Decision):
    text = decision_to_json(decision)
    assert "\n" not in text and json.loads(text)["latency_ns"] == decision.latency_ns
    back = decision_from_json(text)
    for name in set(Decision.__struct_fields__) - {"outputs"}:
        assert getattr(back, name) == getattr(decision, name)
    assert back.outputs.keys() == decision.outputs.keys()
    for head, values in decision.outputs.items():
        assert back.outputs[head].dtype == np.float32
        assert back.outputs[head].tobytes() == values.tobytes()


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"seq": 1}', '{"outputs": 3, "receipt": null}', "nonsense"])
def test_text_that_is_no_decision_is_a_value_error(text: str):
    with pytest.raises(ValueError):
        decision_from_json(text)
