"""Everything that learns for the simulated drive: four encoders, the fusion, and heads that exist only while training."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engines.networks.camera import VIEWS, CameraEncoder
from engines.networks.fusion import HEADS, STREAMS, TOKEN_COUNTS, Fusion
from engines.networks.microphone import MicrophoneEncoder
from engines.networks.telemetry import TelemetryEncoder
from engines.networks.text import TextEncoder
from engines.training.driving_data import SAYINGS
from pipeline.scenarios.driving.world import OBSTACLES, SOURCES

CLUES: dict[str, tuple[str, int]] = {
    "seen_source": ("camera", len(SOURCES)),
    "seen_obstacle": ("camera", len(OBSTACLES)),
    "seen_distance": ("camera", 1),
    "seen_braking": ("camera", 2),
    "seen_zone": ("camera", 2),
    "heard_source": ("microphone", len(SOURCES)),
    "heard_horn": ("microphone", 2),
    "heard_skid": ("microphone", 2),
    "speed_mps": ("telemetry", 1),
    "said": ("text", len(SAYINGS)),
}
"""Auxiliary targets: what one sensor alone can tell, from which stream, and how many values (1: a regression)."""


class DrivingNetworks(nn.Module):
    """Encoders and fusion under one roof, for training end to end.

    ``clues`` and ``alone`` (each task from one stream alone) teach the encoders what to look for; they are not exported.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {
                "camera": CameraEncoder(),
                "microphone": MicrophoneEncoder(),
                "telemetry": TelemetryEncoder(),
                "text": TextEncoder(),
            }
        )
        self.fusion = Fusion()
        widths = {stream: count * 64 for stream, count in zip(STREAMS, TOKEN_COUNTS, strict=True)}
        self.clues = nn.ModuleDict({name: nn.Linear(widths[stream], size) for name, (stream, size) in CLUES.items()})
        self.alone = nn.ModuleDict(
            {f"{s}_{h}": nn.Linear(widths[s], len(labels)) for s in STREAMS for h, labels in HEADS.items()}
        )

    def tokens(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Tokens of each stream in the order of `STREAMS`, ``[batch, n, 64]``."""
        microphone = self.encoders["microphone"]
        assert isinstance(microphone, MicrophoneEncoder)
        return [
            self.encoders["camera"](*(batch[view] for view in VIEWS)),
            microphone.tokens_from_log_mel(batch["log_mel"].float()),
            self.encoders["telemetry"](batch["values"], batch["valid"]),
            self.encoders["text"](batch["text_utf8"]),
        ]

    def fused(self, tokens: list[Tensor], age_s: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Logits by head."""
        return dict(zip(HEADS, self.fusion(*tokens, age_s, mask), strict=True))


def loss_from_batch(
    networks: DrivingNetworks, batch: Mapping[str, Tensor], mask: Tensor, weights: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss and the fused logits. ``weights`` are the class weights of each head."""
    tokens = networks.tokens(batch)
    logits = networks.fused(tokens, batch["age_s"], mask)
    loss = torch.zeros(())
    for head in HEADS:
        labels = batch[head].long()
        loss = loss + nn.functional.cross_entropy(logits[head], labels, weight=weights[head])
    flat = {stream: t.flatten(1) for stream, t in zip(STREAMS, tokens, strict=True)}
    for stream in STREAMS:
        for head in HEADS:
            guess = networks.alone[f"{stream}_{head}"](flat[stream])
            loss = loss + 0.1 * nn.functional.cross_entropy(guess, batch[head].long(), weight=weights[head])
    for name, (stream, size) in CLUES.items():
        loss = loss + 0.3 * _clue_loss(networks.clues[name](flat[stream]), batch[name], size)
    return loss, logits


def _clue_loss(guess: Tensor, target: Tensor, size: int) -> Tensor:
    if size > 1:
        return nn.functional.cross_entropy(guess, target.long())
    known = torch.isfinite(target)
    if not bool(known.any()):
        return guess.sum() * 0
    return nn.functional.smooth_l1_loss(guess[known, 0], target[known], beta=0.2)
