"""Stage 1 of learning: encoders, end to end with a fusion that is thrown away afterwards, on random moments."""

# mypy: allow-subclassing-any
from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.networks.camera import CameraEncoder
from engines.networks.design import ScenarioDesign
from engines.networks.microphone import MicrophoneEncoder
from engines.networks.telemetry import TelemetryEncoder
from engines.networks.text import TextEncoder
from engines.networks.variant import empty_memory
from engines.networks.variants import VARIANTS
from engines.training.moments import STREAMS, MomentSet
from engines.training.worlds import World

BATCH = 96
PEAK_RATE = 3e-3
WHOLE = 0.5
"""Share of moments from which no stream is taken."""
TAKEN = (0.3, 0.3, 0.3, 0.4)
"""How often each stream is taken from one of the others."""
TEXT = STREAMS.index("text")
ALONE, CLUE = 0.2, 0.3
"""Weights of each task from one stream alone, and of each clue."""
SAVE_EVERY = 200


class Encoders(nn.Module):
    """The four encoders of a design."""

    def __init__(self, design: ScenarioDesign) -> None:
        super().__init__()
        self.views = tuple(design.views)
        self.camera = CameraEncoder(design.views)
        self.microphone = MicrophoneEncoder(design.microphone.samples)
        self.telemetry = TelemetryEncoder(design.telemetry)
        self.text = TextEncoder()

    def forward(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Tokens of each stream, ``[batch, n, 64]``, from the fields of a `MomentSet`."""
        return [
            self.camera(*(batch[view] for view in self.views)),
            self.microphone.tokens_from_log_mel(batch["log_mel"].float()),
            self.telemetry(batch["values"], batch["valid"].float()),
            self.text(batch["text_utf8"]),
        ]


class _Learner(nn.Module):
    """Encoders with what teaches them: a fusion, heads on each stream alone, and clues. Only the encoders are kept."""

    def __init__(self, world: World) -> None:
        super().__init__()
        design = world.design
        self.encoders = Encoders(design)
        self.fusion = VARIANTS["bottleneck"](design.layout, None)
        widths = {stream: count * 64 for stream, count in design.token_counts.items()}
        self.clues = nn.ModuleDict({name: nn.Linear(widths[c.stream], c.size) for name, c in world.clues.items()})
        self.alone = nn.ModuleDict(
            {f"{s}_{h}": nn.Linear(widths[s], len(labels)) for s in STREAMS for h, labels in design.heads.items()}
        )

    def loss(self, world: World, batch: Mapping[str, Tensor], mask: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """All tasks from all streams, each task from each stream, and every clue."""
        tokens = self.encoders(batch)
        entries = world.design.memory_entries
        logits, _ = self.fusion(tokens, batch["age_s"], mask, *empty_memory(len(mask), entries))
        loss = torch.zeros(())
        for head, fused in zip(world.design.heads, logits, strict=True):
            loss = loss + nn.functional.cross_entropy(fused, batch[f"label.{head}"].long(), weight=weights[head])
        flat = {stream: t.flatten(1) for stream, t in zip(STREAMS, tokens, strict=True)}
        for stream in STREAMS:
            for head in world.design.heads:
                guess = self.alone[f"{stream}_{head}"](flat[stream])
                loss = loss + ALONE * nn.functional.cross_entropy(guess, batch[f"label.{head}"].long(), weight=weights[head])
        for name, clue in world.clues.items():
            loss = loss + CLUE * _clue_loss(self.clues[name](flat[clue.stream]), batch[f"clue.{name}"], clue.size)
        return loss


def learn_encoders(
    world: World,
    moments: MomentSet,
    *,
    seed: int,
    epochs: int,
    threads: int,
    on_step: Callable[[int], None] = lambda _: None,
    state_path: Path | None = None,
) -> Encoders:
    """Train from scratch: one-cycle schedule, AdamW, random stream subsets. ``on_step`` gets the number of steps done.

    With ``state_path`` the state is saved there every 200 steps and a run that finds one goes on from it. The same arguments give
    the same weights on the same machine, interrupted or not. Uses CUDA where torch sees a device.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs a pass over every new tensor
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner = _Learner(world).to(device)
    learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(learner.parameters(), lr=PEAK_RATE / 25, weight_decay=0.03)
    per_epoch = len(moments) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, max(epochs * per_epoch, 2), pct_start=0.15)
    parts = {"learner": learner, "optimizer": optimizer, "schedule": schedule}
    about = f"encoders of {world.design.name} seed {seed} epochs {epochs} moments {len(moments)}"
    done = _restore(state_path, about, parts) if state_path is not None and state_path.exists() else 0
    weights = {head: w.to(device) for head, w in class_weights(world, moments).items()}
    learner.train()
    for step in range(done, epochs * per_epoch):
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(moments))
        batch = _batch(moments, np.sort(order[place * BATCH : (place + 1) * BATCH]), device)
        mask = mask_from_batch(batch, drawn_absence(np.random.default_rng((seed, step, 1)), BATCH)).to(device)
        loss = learner.loss(world, batch, mask, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if state_path is not None and (step + 1) % SAVE_EVERY == 0:
            _save(state_path, about, step + 1, parts)
        on_step(step + 1)
    encoders: Encoders = learner.encoders.cpu()
    encoders.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    encoders.train(False)
    return encoders


def class_weights(world: World, moments: MomentSet) -> dict[str, Tensor]:
    """Loss weights: the inverse square root of a class's share. A compromise between the rare classes' recall and calibration."""
    weights = {}
    for head, labels in world.design.heads.items():
        share = np.bincount(moments.arrays[f"label.{head}"], minlength=len(labels)) / len(moments)
        raw = np.maximum(share, 1e-3) ** -0.5
        weights[head] = torch.tensor(raw / (raw * share).sum(), dtype=torch.float32)
    return weights


def drawn_absence(rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
    """Which streams each moment does without, bool ``[count, streams]``; never all of them."""
    taken = rng.random((count, len(STREAMS))) < np.array(TAKEN)
    taken &= rng.random((count, 1)) >= WHOLE
    taken[taken.all(axis=1)] = False
    return taken


def mask_from_batch(batch: Mapping[str, Tensor], taken: NDArray[np.bool_]) -> Tensor:
    """The one-hot mask ``[batch, streams, 3]``: what was taken is absent, and text without a young line is quiet.

    A taken text stream counts as quiet in every second moment, as both happen.
    """
    state = np.where(taken, 2, 0)
    silent = batch["spoken"].cpu().numpy() == 0
    every_second = np.arange(len(taken)) % 2 == 0
    state[:, TEXT] = np.where((taken[:, TEXT] & every_second) | (silent & ~taken[:, TEXT]), 1, state[:, TEXT])
    return torch.eye(3)[torch.from_numpy(state)]


def _batch(moments: MomentSet, rows: NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array[rows])).to(device) for name, array in moments.arrays.items()}


def _clue_loss(guess: Tensor, target: Tensor, size: int) -> Tensor:
    if size > 1:
        return nn.functional.cross_entropy(guess, target.long())
    known = torch.isfinite(target)
    if not bool(known.any()):
        return guess.sum() * 0
    return nn.functional.smooth_l1_loss(guess[known, 0], target[known], beta=0.2)


def _save(path: Path, about: str, done: int, parts: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    torch.save({"about": about, "done": done, **{name: p.state_dict() for name, p in parts.items()}}, part)
    os.replace(part, path)


def _restore(path: Path, about: str, parts: Mapping[str, Any]) -> int:
    state = torch.load(path, weights_only=True)
    if state["about"] != about:
        raise RuntimeError(f"{path}: state of {state['about']!r}, not of {about!r}; remove the file or train into another folder")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["done"])
