"""Where a decision's time went, as its receipt says it.

The *critical path* of a decision is that of the input that fusion got last. From the capture of its sample to publication:
decode, encode and fuse compute, waiting for a late sensor, and the rest, which is the runtime's own share (queueing, links,
contention, scheduling, policy).
"""

from __future__ import annotations

from pipeline.admission import Admission, AdmittedWindow
from pipeline.messages import Spans, Stamps, StreamStamps


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


def stamped(admission: Admission, fuse_start_ns: int, fused_ns: int) -> Stamps:
    """The stamps of one live decision. Tokens that came before its reference time was known tell nothing of its latency."""
    streams = tuple(_stream_stamps(w, admission.announced_ns) for w in admission.windows)
    return Stamps(streams=streams, announced_ns=admission.announced_ns, fuse_start_ns=fuse_start_ns, fused_ns=fused_ns)


def _stream_stamps(window: AdmittedWindow, announced_ns: int) -> StreamStamps:
    name, tokens = window.admitted.stream, window.tokens
    if tokens is None or not window.arrived_ns >= announced_ns > 0:
        return StreamStamps(stream=name, settled_ns=window.settled_ns)
    return StreamStamps(
        stream=name,
        capture_ns=tokens.header.capture_ns,
        receive_ns=tokens.header.receive_ns,
        decode_start_ns=tokens.decoded_ns - tokens.decode_ns if tokens.decoded_ns else 0,
        decoded_ns=tokens.decoded_ns,
        taken_ns=tokens.taken_ns,
        encode_start_ns=tokens.encode_start_ns,
        encoded_ns=tokens.encode_start_ns + tokens.encode_ns,
        arrived_ns=window.arrived_ns,
        settled_ns=window.settled_ns,
    )
