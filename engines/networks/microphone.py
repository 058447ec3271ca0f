"""The microphone encoder: a few seconds of sound to tokens."""

# mypy: allow-subclassing-any
from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS, CausalConv1d
from engines.networks.design import MICROPHONE_TOKENS, SAMPLE_RATE_HZ

FRAME = 512
FRAME_HOP = 320
BINS = 144
"""Spectral bins kept: up to 4.5 kHz, above which sirens, horns and skids hold little that is not also below."""
MELS = 40
FLOOR = 1e-6
STRIDE = 4
"""Log-mel frames that one step of the network's end stands for: 80 ms."""


def log_mel_frames(samples: int) -> int:
    """Log-mel frames in a window of so many samples."""
    return (samples - FRAME) // FRAME_HOP + 1


class LogMel(nn.Module):
    """int16 ``[batch, samples]`` to natural-log mel power ``[batch, 40, frames]``, by matrix products only.

    Hann windows of 32 ms every 20 ms; the discrete Fourier transform as one strided convolution whose weights are
    windowed cosines and sines; HTK mel triangles. Power is that of a full-scale-1 signal, plus 1e-6.
    """

    basis: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", torch.from_numpy(fourier_basis())[:, None, :], persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel_matrix()), persistent=False)

    def forward(self, pcm: Tensor) -> Tensor:
        """Transform."""
        wave = pcm.float()[:, None, :] * (1 / 32768)
        spectrum = nn.functional.conv1d(wave, self.basis, stride=FRAME_HOP)
        square = spectrum * spectrum
        power = square[:, :BINS] + square[:, BINS:]
        return torch.log(self.mel @ power + FLOOR)


def fourier_basis() -> NDArray[np.float32]:
    """Windowed cosines, then sines: float32 ``[2 * BINS, FRAME]``. A sine of amplitude 1 has power about 1."""
    time = np.arange(FRAME)
    window = np.hanning(FRAME + 1)[:-1]
    angle = 2 * np.pi * np.arange(1, BINS + 1)[:, None] * time / FRAME
    scale = 2 / window.sum()
    basis: NDArray[np.float32] = (np.concatenate([np.cos(angle), -np.sin(angle)]) * window * scale).astype(np.float32)
    return basis


def mel_matrix(low_hz: float = 60.0) -> NDArray[np.float32]:
    """HTK mel triangles, float32 ``[MELS, BINS]``, each at least one bin wide."""
    bin_hz = np.arange(1, BINS + 1) * SAMPLE_RATE_HZ / FRAME
    top = 2595 * np.log10(1 + bin_hz[-1] / 700)
    bottom = 2595 * np.log10(1 + low_hz / 700)
    edges = 700 * (10 ** (np.linspace(bottom, top, MELS + 2) / 2595) - 1)
    width = SAMPLE_RATE_HZ / FRAME
    rise = (bin_hz - edges[:-2, None]) / np.maximum(edges[1:-1] - edges[:-2], width)[:, None]
    fall = (edges[2:, None] - bin_hz) / np.maximum(edges[2:] - edges[1:-1], width)[:, None]
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


class MicrophoneEncoder(nn.Module):
    """``pcm`` int16 ``[batch, samples]`` to tokens ``[batch, 4, 64]``: log-mel, causal TCN, a token each quarter."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.steps = -(-log_mel_frames(samples) // STRIDE) // MICROPHONE_TOKENS
        self.log_mel = LogMel()
        self.norm = nn.BatchNorm1d(MELS)
        self.tcn = nn.Sequential(
            CausalConv1d(MELS, 64, 3),
            CausalConv1d(64, 64, 3, stride=2),
            CausalConv1d(64, 64, 3),
            CausalConv1d(64, 64, 3, dilation=2),
            CausalConv1d(64, 64, 3, stride=2),
            CausalConv1d(64, 64, 3, dilation=2),
            CausalConv1d(64, 64, 3, dilation=4),
        )
        self.project = nn.Linear(2 * 64, TOKEN_CHANNELS)

    def forward(self, pcm: Tensor) -> Tensor:
        """Encode."""
        return self.tokens_from_log_mel(self.log_mel(pcm))

    def tokens_from_log_mel(self, log_mel: Tensor) -> Tensor:
        """The learned part, ``[batch, 40, frames]`` to tokens. Training keeps log-mel windows, not sound."""
        steps = self.tcn(self.norm(log_mel))
        steps = steps[:, :, -MICROPHONE_TOKENS * self.steps :].unflatten(2, (MICROPHONE_TOKENS, self.steps))
        pooled = torch.cat([steps.mean(3), steps.amax(3)], dim=1).transpose(1, 2)
        tokens: Tensor = self.project(pooled)
        return tokens
