"""Decisions as JSON and back, exactly: the form they have in logs, on ``--json`` and on the network.

float32 values are written as the shortest decimal that reads back to the same float32, so a decision survives the trip bit
for bit.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.messages import Admitted, Availability, Decision, Receipt, Spans, Stamps, StreamStamps


def _admitted_to_dict(admitted: Admitted) -> dict[str, Any]:
    return {
        "stream": admitted.stream,
        "availability": admitted.availability.name.lower(),
        "seq": admitted.seq,
        "epoch": admitted.epoch,
        "window_end_ns": admitted.window_end_ns,
        "age_ns": admitted.age_ns,
        "overrun": admitted.overrun,
    }


def _receipt_to_dict(receipt: Receipt) -> dict[str, Any]:
    spans = receipt.spans
    return {
        "admitted": [_admitted_to_dict(a) for a in receipt.admitted],
        "spans": {name: getattr(spans, name) for name in Spans.__struct_fields__},
        "engines": receipt.engines,
        "config_sha256": receipt.config_sha256,
        "state_sha256": receipt.state_sha256,
        "overrun": receipt.overrun,
        "synthetic": receipt.synthetic,
        **({"stamps": _stamps_to_dict(receipt.stamps)} if receipt.stamps is not None else {}),
    }


def _stamps_to_dict(stamps: Stamps) -> dict[str, Any]:
    streams = [{n: v for n in StreamStamps.__struct_fields__ if (v := getattr(s, n))} for s in stamps.streams]
    return {"streams": streams, **{n: getattr(stamps, n) for n in Stamps.__struct_fields__ if n != "streams"}}


def decision_to_dict(decision: Decision) -> dict[str, Any]:
    """A decision as plain JSON values; times in ns, probabilities as shortest exact decimals."""
    return {
        "seq": decision.seq,
        "reference_ns": decision.reference_ns,
        "publish_ns": decision.publish_ns,
        "latency_ns": decision.latency_ns,
        "deadline_ns": decision.deadline_ns,
        "status": decision.status,
        "action": decision.action,
        "outputs": {k: [float(str(x)) for x in v.astype(np.float32)] for k, v in decision.outputs.items()},
        "labels": decision.labels,
        "state": decision.state,
        "receipt": _receipt_to_dict(decision.receipt) if decision.receipt else None,
        **({"sink_ns": decision.sink_ns} if decision.sink_ns else {}),
    }


def decision_to_json(decision: Decision) -> str:
    """One decision as one line of JSON. Fusion's memory is left out: it is for the recorder's snapshots."""
    return json.dumps(decision_to_dict(decision), separators=(",", ":"), allow_nan=False)


def _receipt_from_dict(data: dict[str, Any]) -> Receipt:
    admitted = tuple(Admitted(**{**a, "availability": Availability[a["availability"].upper()]}) for a in data["admitted"])
    stamps = _stamps_from_dict(data["stamps"]) if data.get("stamps") else None
    return Receipt(**{**data, "admitted": admitted, "spans": Spans(**data["spans"]), "stamps": stamps})


def _stamps_from_dict(data: dict[str, Any]) -> Stamps:
    return Stamps(**{**data, "streams": tuple(StreamStamps(**stream) for stream in data["streams"])})


def decision_from_json(text: str | bytes) -> Decision:
    """Read back what `decision_to_json` wrote. Raises ValueError when the text is not such a decision."""
    try:
        data = json.loads(text)
        data.pop("latency_ns", None)
        outputs = {k: np.array(v, dtype=np.float32) for k, v in data.pop("outputs").items()}
        receipt = data.pop("receipt")
        return Decision(**data, outputs=outputs, receipt=_receipt_from_dict(receipt) if receipt else None)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a decision: {error!r}") from error
