"""The text encoder: one line to tokens."""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS
from engines.networks.design import TEXT_TOKENS

BYTES = 128


class TextEncoder(nn.Module):
    """``text_utf8`` uint8 ``[batch, 128]``, zero padded, to tokens ``[batch, 2, 64]``.

    Bytes, not words: no vocabulary file, and an unknown word is still letters. Two convolutions see about ten bytes;
    the maximum over the line finds a phrase wherever it stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 24)
        self.conv1 = nn.Conv1d(24, 64, 5, padding=2)
        self.conv2 = nn.Conv1d(64, 96, 5, stride=2, padding=2)
        self.project = nn.Linear(96, TEXT_TOKENS * TOKEN_CHANNELS)

    def forward(self, text_utf8: Tensor) -> Tensor:
        """Encode."""
        letters = self.embed(text_utf8.int()).transpose(1, 2)
        phrases = torch.relu(self.conv2(torch.relu(self.conv1(letters))))
        tokens: Tensor = self.project(phrases.amax(2)).unflatten(1, (TEXT_TOKENS, TOKEN_CHANNELS))
        return tokens
