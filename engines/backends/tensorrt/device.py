"""The NVIDIA GPU that TensorRT runs on: is there one, is its driver new enough, and its primary context.

Everything that touches CUDA first comes through here: TensorRT's own runtime ends the process, not the call, where there is no
device. The context is the device's *primary* one, which the CUDA runtime inside TensorRT (and torch) uses too.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from engines.backends.base import Availability, BackendUnavailable, reason

INSTALL = "pip install 'chiasm[gpu]'"
DRIVER_OF_CUDA = {12: "525", 13: "580"}
"""CUDA's major version to the first driver release that runs it (CUDA Toolkit release notes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU. A plan is of no use on another model, nor under another driver."""

    name: str
    compute_capability: str
    driver: int
    """The newest CUDA that its driver speaks, as CUDA writes it: 12020 is 12.2."""


def availability() -> Availability:
    """Whether there is a GPU, a driver that is new enough, and the libraries to drive it. Never raises."""
    versions: dict[str, str] = {}
    try:
        import pycuda
        import pycuda.driver as cuda

        versions["pycuda"] = str(pycuda.VERSION_TEXT)
    except (ImportError, OSError) as error:
        return Availability(reason=f"{reason(error)}; {_missing(error)}", versions=versions)
    try:
        cuda.init()
        if not cuda.Device.count():
            return Availability(
                reason="no NVIDIA GPU is visible here; see nvidia-smi and CUDA_VISIBLE_DEVICES", versions=versions
            )
        device = device_found()
    except cuda.Error as error:
        return Availability(reason=f"{reason(error)}; install an NVIDIA driver for this GPU, see nvidia-smi", versions=versions)
    versions |= {"device": device.name, "compute capability": device.compute_capability, "driver CUDA": _dotted(device.driver)}
    try:
        import tensorrt

        versions["tensorrt"] = str(tensorrt.__version__)
    except (ImportError, OSError) as error:
        return Availability(reason=f"{reason(error)}; {INSTALL}", versions=versions)
    needed = cuda_of_tensorrt(versions["tensorrt"])
    if device.driver < needed * 1000:
        driver = f"the driver speaks CUDA {_dotted(device.driver)}, TensorRT {versions['tensorrt']} wants {needed}"
        return Availability(reason=f"{driver}; install driver {DRIVER_OF_CUDA[needed]} or newer", versions=versions)
    return Availability(versions=versions)


def device_found() -> Device:
    """The first visible GPU. CUDA must be there."""
    import pycuda.driver as cuda

    cuda.init()
    device = cuda.Device(0)
    major, minor = device.compute_capability()
    return Device(name=device.name(), compute_capability=f"{major}.{minor}", driver=int(cuda.get_driver_version()))


def cuda_of_tensorrt(version: str) -> int:
    """The major version of CUDA that this TensorRT was built for: 8.6 for 12, later ones as their package's name says."""
    if int(version.partition(".")[0]) < 10:
        return 12
    names = {d.metadata["Name"].replace("_", "-") for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return 12 if {"tensorrt-cu12", "tensorrt-cu12-bindings"} & names else 13


@contextmanager
def current_context() -> Iterator[Any]:
    """The device's primary context, current in this thread for the time of the block. Raises BackendUnavailable: no device.

    pycuda.autoprimaryctx would leave it current in whichever thread imports it first, and in no other.
    """
    import pycuda.driver as cuda

    context = _primary()
    context.push()
    try:
        yield context
    finally:
        cuda.Context.pop()


@cache
def _primary() -> Any:
    found = availability()
    if not found.available:
        raise BackendUnavailable(f"backend tensorrt: {found.reason}")
    import pycuda.driver as cuda

    return cuda.Device(0).retain_primary_context()


def _missing(error: BaseException) -> str:
    return "install an NVIDIA driver" if "libcuda" in str(error) else INSTALL


def _dotted(driver: int) -> str:
    return f"{driver // 1000}.{driver % 1000 // 10}"
