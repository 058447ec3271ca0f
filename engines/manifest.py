"""What an engine reads and gives: the JSON beside each ``.onnx``.

A manifest is trusted no further than its checks: unknown keys are refused, shapes must agree with windows, channels and
labels, and the ONNX file must have the hash that the manifest names. Arrays only, never pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self  # noqa: UP035 - on Python 3.10 too, where TensorRT 8.6 lives

MAX_MANIFEST_BYTES = 1 << 20
MAX_MODEL_BYTES = 256 << 20
MAX_MEMORY = 64
NS_PER_S = 1_000_000_000

Role = Literal["camera", "microphone", "telemetry", "text", "fusion"]
DType = Literal["uint8", "int16", "float32"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What a graph computes in, mostly. It is a property of the ONNX file, never a flag of a backend."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,63}$")]
Dimension = Annotated[int, Field(ge=1, le=1 << 24)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
StreamMask = Annotated[str, Field(pattern=r"^[01]{1,16}$")]


class EngineError(Exception):
    """An engine cannot be loaded or run. One line that names the file or tensor, what is wrong, and the fix."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class TensorSpec(_Frozen):
    """One input or output. A ``null`` in ``shape`` is a dynamic dimension."""

    name: Name
    dtype: DType
    shape: tuple[Dimension | None, ...]
    unit: str = ""

    @property
    def is_fixed(self) -> bool:
        """Whether every dimension is known before the first call."""
        return all(d is not None for d in self.shape)


class ChannelSpec(_Frozen):
    """One telemetry channel, in the order of the input's last axis."""

    name: Name
    unit: str
    required: bool = False


class Calibration(_Frozen):
    """How logits become probabilities that mean what they say, for one availability mask.

    ``temperature`` and ``bias`` (one number a label, or none) are bias-corrected temperature scaling (Alexandari et al., "Maximum
    Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation", 2020; without a bias: Guo et al., "On
    Calibration of Modern Neural Networks", 2017). ``doubt`` is the share of the probability that is spread evenly over the
    labels: by it confidence falls as streams are removed.
    """

    temperature: Positive = 1.0
    bias: tuple[Finite, ...] = Field(default=(), max_length=64)
    doubt: Probability = 0.0

    @cached_property
    def _bias(self) -> NDArray[np.float64]:
        return np.array(self.bias, np.float64)

    def probabilities(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Float64 probabilities from logits, both ``[..., labels]``; in float64 so that every host rounds alike."""
        scaled = logits.astype(np.float64) / self.temperature
        if self.bias:
            scaled = scaled + self._bias
        exponential = np.exp(scaled - np.maximum.reduce(scaled, axis=-1, keepdims=True))
        likely: NDArray[np.float64] = exponential / np.add.reduce(exponential, axis=-1, keepdims=True)
        calibrated: NDArray[np.float64] = likely * (1.0 - self.doubt) + self.doubt / logits.shape[-1]
        return calibrated


class HeadSpec(_Frozen):
    """One output of a fusion engine and how its logits become calibrated probabilities.

    ``kind`` ``softmax``: classes exclude one another. A mask is one character a stream in the manifest's order, ``1`` for
    a stream that is present; a mask not listed uses ``calibration`` and the policy's own threshold.
    """

    name: Name
    output: Name
    kind: Literal["softmax"] = "softmax"
    labels: tuple[str, ...] = Field(min_length=2)
    calibration: Calibration = Calibration()
    calibration_by_mask: dict[StreamMask, Calibration] = Field(default_factory=dict)
    thresholds_by_mask: dict[StreamMask, dict[str, Probability]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _biases_fit(self) -> Self:
        for where, calibration in {"calibration": self.calibration, **self.calibration_by_mask}.items():
            if calibration.bias and len(calibration.bias) != len(self.labels):
                counts = f"{len(calibration.bias)} numbers for {len(self.labels)} labels"
                raise ValueError(f"head {self.name!r}, {where}: bias has {counts}; give one a label")
        return self

    def calibration_for(self, present: Sequence[bool]) -> Calibration:
        """That of one availability mask (``present``: one flag a stream, in the manifest's order)."""
        return self.calibration_by_mask.get(mask_key(present), self.calibration)

    def thresholds_for(self, present: Sequence[bool]) -> Mapping[str, float]:
        """Label to the probability from which it is called, for one availability mask; empty where none was fitted."""
        return self.thresholds_by_mask.get(mask_key(present), {})


def mask_key(present: Sequence[bool]) -> str:
    """``"1011"`` for a second stream that is absent."""
    return "".join("1" if p else "0" for p in present)


class Training(_Frozen):
    """Where the weights come from. ``trained: false`` marks weights as initialised, never learned."""

    trained: bool
    simulated: bool = True
    command: str = ""
    seed: int = 0
    train_seeds: str = ""
    validation_seeds: str = ""
    torch_version: str = ""
    date: str = ""


class Manifest(_Frozen):
    """What one engine reads and gives.

    ``hop_ns == 0``: every sample is a window. Window, hop, step and hold are in ns of capture time.
    """

    format: Literal[1]
    role: Role
    onnx: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.onnx$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    window_ns: int = Field(default=0, ge=0)
    hop_ns: int = Field(default=0, ge=0)
    sample_rate_hz: int = Field(default=0, ge=0, le=768_000)
    channels: tuple[ChannelSpec, ...] = ()
    step_ns: int = Field(default=0, ge=0)
    hold_ns: int = Field(default=0, ge=0)
    streams: tuple[Name, ...] = Field(default=(), max_length=16)
    heads: tuple[HeadSpec, ...] = ()
    memory_step_ns: int = Field(default=0, ge=0)
    """A fusion with memory reads ``memory [entries, channels]``, ``memory_age_s`` and ``memory_mask [entries]`` and gives
    ``memory_token [channels]``; entries lie at least this far apart."""
    training: Training
    precision: Precision = "fp32"
    derived_from: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the fp32 graph that this one was made from by `engines.precision`; empty: it is itself the trained one."""
    calibrated_on: Annotated[str, Field(max_length=200)] = ""
    """Where the windows came from on which an int8 graph's ranges were measured."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for tensors, side in ((self.inputs, "inputs"), (self.outputs, "outputs")):
            names = [t.name for t in tensors]
            if len(set(names)) != len(names):
                raise ValueError(f"{side}: a name occurs twice in {names}")
        if (self.hop_ns == 0) != (self.window_ns == 0):
            raise ValueError(f"window_ns {self.window_ns} and hop_ns {self.hop_ns}: both or neither must be 0")
        if self.role == "fusion":
            self._check_fusion()
        elif self.streams or self.heads:
            raise ValueError(f"role {self.role}: streams and heads belong to a fusion engine")
        if self.role == "microphone":
            self._check_shape("pcm", (self.window_ns * self.sample_rate_hz // NS_PER_S,))
        if self.role == "telemetry":
            if not self.channels or not self.step_ns or not self.hold_ns:
                raise ValueError("role telemetry: channels, step_ns and hold_ns are required")
            for name in ("values", "valid"):
                self._check_shape(name, (self.window_ns // self.step_ns, len(self.channels)))
        return self

    def _check_fusion(self) -> None:
        if not self.streams or not self.heads:
            raise ValueError("role fusion: streams and heads are required")
        for name in [f"{s}_tokens" for s in self.streams]:
            if name not in {t.name for t in self.inputs}:
                raise ValueError(f"role fusion: no input {name!r} for a stream in streams")
        self._check_shape("age_s", (len(self.streams),))
        self._check_shape("mask", (len(self.streams), 3))
        self._check_memory()
        widths = {t.name: t.shape[-1] if t.shape else None for t in self.outputs}
        for head in self.heads:
            if widths.get(head.output) != len(head.labels):
                raise ValueError(f"head {head.name!r}: output {head.output!r} must have {len(head.labels)} values")

    def _check_memory(self) -> None:
        memory = next((t.shape for t in self.inputs if t.name == "memory"), None)
        token = next((t.shape for t in self.outputs if t.name == "memory_token"), None)
        if (memory is None) != (token is None) or (memory is None) != (self.memory_step_ns == 0):
            raise ValueError("role fusion: input memory, output memory_token and memory_step_ns go together")
        if memory is None:
            return
        if len(memory) != 2 or memory[0] is None or memory[0] > MAX_MEMORY or token != (memory[1],):
            raise ValueError(f"input 'memory': shape {memory} must be at most [{MAX_MEMORY}, channels], memory_token [channels]")
        for name in ("memory_age_s", "memory_mask"):
            self._check_shape(name, (memory[0],))

    def _check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        found = next((t.shape for t in self.inputs if t.name == name), None)
        if found != expected:
            raise ValueError(f"input {name!r}: shape {found} does not match {expected}")

    def head(self, name: str) -> HeadSpec:
        """The head of that name; raises EngineError if there is none."""
        for head in self.heads:
            if head.name == name:
                return head
        raise EngineError(f"{self.onnx}: no head {name!r}; it has {', '.join(h.name for h in self.heads) or 'none'}")


def load_manifest(path: Path) -> Manifest:
    """Read a manifest and check that the ONNX file beside it has the hash it names.

    Raises EngineError: file missing, not JSON, unknown key, self-contradiction, hash mismatch.
    """
    return load_engine_files(path)[0]


def load_engine_files(path: Path) -> tuple[Manifest, bytes]:
    """`load_manifest`, with the very bytes of the ONNX file that were hashed."""
    try:
        manifest = Manifest.model_validate_json(_read_bounded(path, MAX_MANIFEST_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise EngineError(f"{path}: {where}: {first['msg']}; correct the manifest or restore the file") from None
    model_path = path.parent / manifest.onnx
    model = _read_bounded(model_path, MAX_MODEL_BYTES)
    found = hashlib.sha256(model).hexdigest()
    if found != manifest.sha256:
        raise EngineError(
            f"{model_path}: sha256 {found[:12]}… is not the {manifest.sha256[:12]}… that {path.name} expects; "
            f"restore the file or train again (chiasm train)"
        )
    return manifest, model


def _read_bounded(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}; restore the file or train again (chiasm train)") from None
    if len(content) > limit_bytes:
        raise EngineError(f"{path}: larger than {limit_bytes} bytes; this is not an engine's file, restore it")
    return content
