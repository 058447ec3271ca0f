"""What differs between the Python bindings of TensorRT 8.6, 10 and 11: how a network is typed and built.

Up to 8.6 a network is weakly typed: flags say which precisions it may use, constraints where. From 10 on it can be, and in 11
it always is, strongly typed: it computes in the dtypes that the ONNX file says. Here the file says it (`engines.precision`),
and for 8.6 its dtypes are translated into flags and constraints. Running is the same on all three: tensors by name.
"""

from __future__ import annotations

from typing import Any

from engines.manifest import EngineError, Precision

WORKSPACE_BYTES = 256 << 20
"""What a layer may use beside its tensors. The shipped networks need less than 1 MB."""
MAX_MESSAGES = 20


def generation(trt: Any) -> int:
    """8, 10 or 11."""
    return int(str(trt.__version__).partition(".")[0])


def message_logger(trt: Any) -> Any:
    """A ``trt.ILogger`` that prints nothing (TensorRT's own writes to standard output) and keeps its last errors."""

    class MessageLogger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        """``errors``: what TensorRT last complained of, oldest first."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors = [*self.errors, " ".join(message.split())][-MAX_MESSAGES:]

    return MessageLogger()


def last_error(logger: Any, otherwise: str) -> str:
    """TensorRT's last complaint in one bounded line."""
    return (logger.errors[-1] if logger.errors else otherwise)[:240]


def built_plan(trt: Any, logger: Any, model: bytes, precision: Precision, timing: bytes, name: str) -> tuple[bytes, bytes]:
    """The plan of a graph of `engines.backends.portable_graph`, and the timing cache with what was timed for it.

    ``timing``: an earlier timing cache, or nothing. Raises EngineError: a precision that this TensorRT lacks, an operator that
    its parser lacks, no room, no kernel.
    """
    if generation(trt) < 10 and precision == "bf16":
        raise EngineError(f"{name}: TensorRT {trt.__version__} has no bf16; use tensorrt-fp16, or TensorRT 10 or newer")
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        found = "; ".join(str(parser.get_error(place).desc()) for place in range(parser.num_errors))
        raise EngineError(f"{name}: TensorRT's parser refuses it ({' '.join(found.split())[:240]}); run it on ort")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    # what 8.6 prefers, cuBLAS and cuDNN, are a gigabyte of other packages, and newer ones have them no more
    sources = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    config.set_tactic_sources(sum(1 << int(source) for source in sources))
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    if generation(trt) < 10:
        _constrain(trt, network, config, precision)
    cache = config.create_timing_cache(timing)
    config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{name}: TensorRT cannot build it ({last_error(logger, 'it does not say why')}); run it on ort")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.EXPLICIT_BATCH if generation(trt) < 10 else flags.STRONGLY_TYPED)


def _constrain(trt: Any, network: Any, config: Any, precision: Precision) -> None:
    """The graph's own dtypes as constraints on a weakly typed network."""
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if precision != "fp16":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    # to prefer, not to obey: some layers that only move data have no kernel of their own in fp32
    config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    moved = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST)
    for place in range(network.num_layers):
        layer = network.get_layer(place)
        if layer.type not in moved and layer.num_outputs and layer.get_output(0).dtype in (trt.float32, trt.float16):
            layer.precision = layer.get_output(0).dtype
