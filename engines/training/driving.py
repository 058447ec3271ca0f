"""From nothing to the shipped driving engines: render, learn, calibrate, export. ``chiasm train driving`` calls `train`."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from engines.export import export_engine
from engines.manifest import Training, mask_key
from engines.networks.fusion import HEADS, STREAMS
from engines.training.calibration import (
    Labels,
    Logits,
    balanced_accuracy,
    expected_calibration_error,
    fitted_temperature,
    probabilities,
    stream_subsets,
)
from engines.training.driving_card import write_card
from engines.training.driving_data import SampleSet, build
from engines.training.driving_model import DrivingNetworks, loss_from_batch

VALIDATION_SEEDS = range(900, 950)
BATCH = 96
PEAK_RATE = 3e-3
WHOLE = 0.5
"""Share of samples from which no stream is taken."""
TAKEN = {"camera": 0.3, "microphone": 0.3, "telemetry": 0.3, "text": 0.4}
"""How often each stream is taken from one of the others."""
TEXT = STREAMS.index("text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What training made. ``figures``: head, then mask (``"1011"``), then measure, on the validation drives."""

    folder: Path
    figures: dict[str, dict[str, dict[str, float]]]


def train(
    output: Path,
    *,
    seed: int = 1,
    drives: int = 900,
    samples_per_drive: int = 40,
    epochs: int = 5,
    processes: int = 2,
    show_progress: bool = True,
) -> Outcome:
    """Train the driving engines on simulated drives and write them to ``output``, whole or not at all.

    Drives have the seeds 0 to ``drives - 1`` (at most 900), validation 900 to 949; the test split and the drive that ships are
    refused. The defaults are the shipped weights' and take up to 15 minutes on two cores. Needs the extra ``train``.
    Raises ValueError for settings out of range, RuntimeError without panda3d.
    """
    if not 1 <= drives <= VALIDATION_SEEDS.start:
        raise ValueError(f"drives is {drives}; use 1 to {VALIDATION_SEEDS.start}, validation begins there")
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), *times)
    with (
        tempfile.TemporaryDirectory(prefix="chiasm-train-") as scratch,
        Progress(*columns, disable=not show_progress) as bars,
    ):
        rendering = bars.add_task("rendering", total=drives + len(VALIDATION_SEEDS))
        step = lambda: bars.advance(rendering)  # noqa: E731
        learned = build(Path(scratch) / "train", range(drives), samples_per_drive, processes, step)
        held_out = build(Path(scratch) / "validation", VALIDATION_SEEDS, samples_per_drive, processes, step)
        learning = bars.add_task("learning", total=epochs * (len(learned) // BATCH))
        networks = learn(learned, seed=seed, epochs=epochs, threads=processes, on_step=lambda: bars.advance(learning))
        heads, figures = calibrate(networks, held_out)
        provenance = Training(
            trained=True,
            command="chiasm train driving",
            seed=seed,
            train_seeds=f"0-{drives - 1}",
            validation_seeds=f"{VALIDATION_SEEDS.start}-{VALIDATION_SEEDS.stop - 1}",
            torch_version=str(torch.__version__),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
        _export(networks, heads, figures, provenance, Path(scratch) / "engines", output)
    return Outcome(folder=output, figures=figures)


def learn(
    samples: SampleSet,
    *,
    seed: int,
    epochs: int,
    threads: int,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[DrivingNetworks], None] = lambda _: None,
) -> DrivingNetworks:
    """Train end to end from scratch; one-cycle schedule, AdamW, random stream subsets."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs a pass over every new tensor
    rng = np.random.Generator(np.random.PCG64(seed))
    networks = DrivingNetworks()
    networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(networks.parameters(), lr=PEAK_RATE / 25, weight_decay=0.03)
    steps = epochs * (len(samples) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, max(steps, 2), pct_start=0.15)
    weights = class_weights(samples)
    networks.train()
    for _ in range(epochs):
        order = rng.permutation(len(samples))
        for start in range(0, len(samples) - BATCH + 1, BATCH):
            batch = batch_from_samples(samples, np.sort(order[start : start + BATCH]))
            loss, _ = loss_from_batch(networks, batch, mask_from_batch(batch, drawn_absence(rng, BATCH)), weights)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            on_step()
        on_epoch(networks)
    networks.train(False)
    return networks


def class_weights(samples: SampleSet) -> dict[str, Tensor]:
    """Loss weights: the inverse square root of a class's share. A compromise between the rare classes' recall and calibration."""
    weights = {}
    for head, labels in HEADS.items():
        share = np.bincount(samples.arrays[head], minlength=len(labels)) / len(samples)
        raw = np.maximum(share, 1e-3) ** -0.5
        weights[head] = torch.tensor(raw / (raw * share).sum(), dtype=torch.float32)
    return weights


def batch_from_samples(samples: SampleSet, rows: NDArray[np.int64] | slice) -> dict[str, Tensor]:
    """Tensors by field."""
    return {name: torch.from_numpy(np.array(array[rows])) for name, array in samples.arrays.items()}


def drawn_absence(rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
    """Which streams each sample does without, bool ``[count, streams]``; never all of them."""
    taken = rng.random((count, len(STREAMS))) < np.array([TAKEN[s] for s in STREAMS])
    taken &= rng.random((count, 1)) >= WHOLE
    taken[taken.all(axis=1)] = False
    return taken


def mask_from_batch(batch: Mapping[str, Tensor], taken: NDArray[np.bool_]) -> Tensor:
    """The one-hot mask ``[batch, streams, 3]``: what was taken is absent, and text without a young line is quiet.

    A taken text stream counts as quiet in every second sample, as both happen.
    """
    state = np.where(taken, 2, 0)
    silent = batch["spoken"].numpy() == 0
    every_second = np.arange(len(taken)) % 2 == 0
    state[:, TEXT] = np.where((taken[:, TEXT] & every_second) | (silent & ~taken[:, TEXT]), 1, state[:, TEXT])
    return torch.eye(3)[torch.from_numpy(state)]


def logits_by_subset(networks: DrivingNetworks, samples: SampleSet) -> dict[tuple[bool, ...], dict[str, Logits]]:
    """Fused logits by head for every subset of the streams, float64 ``[samples, classes]``."""
    found: dict[tuple[bool, ...], dict[str, list[Logits]]] = {}
    with torch.inference_mode():
        for start in range(0, len(samples), 256):
            batch = batch_from_samples(samples, slice(start, start + 256))
            tokens = networks.tokens(batch)
            for present in stream_subsets(len(STREAMS)):
                taken = np.tile(~np.array(present), (len(batch["action"]), 1))
                fused = networks.fused(tokens, batch["age_s"], mask_from_batch(batch, taken))
                for head, logits in fused.items():
                    found.setdefault(present, {}).setdefault(head, []).append(logits.double().numpy())
    return {p: {head: np.concatenate(parts) for head, parts in heads.items()} for p, heads in found.items()}


def calibrate(
    networks: DrivingNetworks, samples: SampleSet
) -> tuple[list[dict[str, Any]], dict[str, dict[str, dict[str, float]]]]:
    """The manifest's heads with a temperature for every availability mask, and figures on the held-out drives.

    Temperatures are fitted on drives of even place and figures taken from those of odd place and the other way round
    (two-fold), so that no figure is of data its temperature saw; the manifest gets the temperature of all.
    """
    subsets = logits_by_subset(networks, samples)
    folds = (np.arange(len(samples)) * len(VALIDATION_SEEDS) // len(samples)) % 2
    heads: list[dict[str, Any]] = []
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for head, labels in HEADS.items():
        truth: Labels = samples.arrays[head].astype(np.int64)
        temperatures = {}
        rows = {}
        for present, by_head in subsets.items():
            logits = by_head[head]
            temperatures[mask_key(present)] = round(fitted_temperature(logits, truth), 4)
            calibrated = np.empty_like(logits)
            for fold in (0, 1):
                there = folds == fold
                calibrated[there] = probabilities(logits[there] / fitted_temperature(logits[~there], truth[~there]))
            rows[mask_key(present)] = _figures(calibrated, truth)
        heads.append(
            {
                "name": head,
                "output": f"{head}_logits",
                "labels": list(labels),
                "temperature": temperatures["1" * len(STREAMS)],
                "temperature_by_mask": temperatures,
            }
        )
        figures[head] = rows
    return heads, figures


def _figures(calibrated: Logits, truth: Labels) -> dict[str, float]:
    predicted = calibrated.argmax(axis=1)
    return {
        "balanced_accuracy": round(balanced_accuracy(predicted, truth), 4),
        "accuracy": round(float((predicted == truth).mean()), 4),
        "mean_top_probability": round(float(calibrated.max(axis=1).mean()), 4),
        "ece": round(expected_calibration_error(calibrated, truth), 4),
    }


def _export(
    networks: DrivingNetworks,
    heads: list[dict[str, Any]],
    figures: dict[str, dict[str, dict[str, float]]],
    provenance: Training,
    scratch: Path,
    output: Path,
) -> None:
    networks = networks.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for stream, encoder in networks.encoders.items():
        export_engine(stream, encoder, scratch, provenance)
    export_engine("fusion", networks.fusion, scratch, provenance, heads)
    write_card(scratch, figures)
    output.mkdir(parents=True, exist_ok=True)
    # ONNX files first: a manifest never names a model that is not there yet
    for path in sorted(scratch.iterdir(), key=lambda p: (p.suffix != ".onnx", p.name)):
        target = output / path.name
        copy = target.with_suffix(target.suffix + ".part")
        shutil.copyfile(path, copy)
        os.replace(copy, target)
