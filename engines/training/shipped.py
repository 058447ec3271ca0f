"""The shipped fusion, as torch: its parameters beside the engine, in numpy's own format, and proof that it is that engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.manifest import EngineError, Manifest, load_manifest
from engines.networks.layout import FusionLayout
from engines.networks.variant import FusionNetwork
from engines.networks.variants import VARIANTS
from engines.registry import open_engine

PARAMETERS = "fusion.npz"
VARIANT = "bottleneck"
"""The fusion that ships."""
PARITY = 1e-4
_TICKS = 32


def save_parameters(network: FusionNetwork, folder: Path) -> None:
    """Write a fusion's parameters and buffers beside its engine: arrays only, nothing pickled."""
    arrays: Mapping[str, Any] = {name: value.numpy() for name, value in sorted(network.state_dict().items())}
    np.savez(folder / PARAMETERS, **arrays)


def load_shipped(folder: Path, layout: FusionLayout) -> tuple[FusionNetwork, Manifest]:
    """The fusion of a weights folder, held to its engine: the same numbers on random inputs, or EngineError."""
    manifest = load_manifest(folder / "fusion.json")
    network = VARIANTS[VARIANT](layout, None)
    path = folder / PARAMETERS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineError(
            f"{path}: {' '.join(str(error).split())[:120]}; restore the file or train again (chiasm train)"
        ) from None
    network.train(False)
    _check_parity(network, folder, layout)
    return network, manifest


def _check_parity(network: FusionNetwork, folder: Path, layout: FusionLayout) -> None:
    rng = np.random.default_rng(0)
    entries, streams = layout.memory_entries, len(layout.streams)
    with open_engine(folder / "fusion.json") as engine, torch.inference_mode():
        for _ in range(_TICKS):
            tokens = [rng.normal(size=(n, 64)).astype(np.float32) for n in layout.token_counts]
            age_s = rng.uniform(0, 2, streams).astype(np.float32)
            mask = np.eye(3, dtype=np.float32)[rng.integers(0, 3, streams)]
            memory = rng.normal(size=(entries, 64)).astype(np.float32)
            ages = rng.uniform(0, 3, entries).astype(np.float32)
            there = (rng.random(entries) < 0.7).astype(np.float32)
            inputs = {f"{s}_tokens": t for s, t in zip(layout.streams, tokens, strict=True)}
            inputs |= {"age_s": age_s, "mask": mask, "memory": memory, "memory_age_s": ages, "memory_mask": there}
            found = engine.infer(inputs)
            plain = [torch.from_numpy(x)[None] for x in (age_s, mask, memory, ages, there)]
            logits, _ = network([torch.from_numpy(t)[None] for t in tokens], *plain)
            for head, wanted in zip(layout.heads, logits, strict=True):
                error = float(np.abs(wanted[0].numpy() - found[f"{head}_logits"]).max() / max(float(wanted.abs().max()), 1e-6))
                if error > PARITY:
                    raise EngineError(
                        f"{folder / PARAMETERS}: is not the fusion of {folder / 'fusion.onnx'} (off by {error:.1e}); train again"
                    )
