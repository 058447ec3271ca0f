"""The hash of a run: what it decided and on what, and nothing of when or where it ran.

SHA-256 over config and engine hashes (of engines again whenever others serve) and then, per decision: reference time relative to
the first, every output as little-endian float32, the policy's state, and per stream (seq, age, availability). Changing one input
sample that an encoder reads changes it.
"""

from __future__ import annotations

import hashlib
import struct

from pipeline.messages import Decision


class RunDigest:
    """Fed with decisions in order, gives the run's SHA-256."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._first_ns: int | None = None
        self._engines: dict[str, str] = {}

    def add(self, decision: Decision) -> None:
        """Take one decision in. A skipped one counts without outputs."""
        receipt = decision.receipt
        if self._first_ns is None:
            self._first_ns = decision.reference_ns
            if receipt is not None:
                self._hash.update(receipt.config_sha256.encode())
        if receipt is not None and receipt.engines != self._engines:
            self._engines = receipt.engines
            for role, engine in sorted(receipt.engines.items()):
                self._hash.update(f"{role}={engine};".encode())
        self._hash.update(struct.pack("<q", decision.reference_ns - self._first_ns))
        for head, values in sorted(decision.outputs.items()):
            self._hash.update(head.encode())
            self._hash.update(values.astype("<f4").tobytes())
        self._hash.update(decision.state.encode())
        for admitted in receipt.admitted if receipt is not None else ():
            self._hash.update(admitted.stream.encode())
            self._hash.update(struct.pack("<qqB", admitted.seq, admitted.age_ns, admitted.availability))

    def hexdigest(self) -> str:
        """The hash so far."""
        return self._hash.hexdigest()
