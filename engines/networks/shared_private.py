"""What streams share and what each has alone: two embeddings of every stream, which fusion reads and training shapes."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PRIVATE = 32
"""Width of the private part."""


class SharedPrivate(nn.Module):
    """A shared and a private embedding of each stream (Bousmalis et al., "Domain Separation Networks", 2016).

    Reads each stream's projected tokens ``[b, n_s, width]``; gives ``shared [b, streams, shared_width]`` of length 1 and
    ``private [b, streams, 32]`` of mean square about 1. Each is a function of its own stream alone. Which streams are there is
    not looked at: whoever reads the parts must leave out those of missing streams.
    """

    def __init__(self, token_counts: Sequence[int], width: int, shared_width: int) -> None:
        super().__init__()
        self.weight = nn.ParameterList(nn.Parameter(torch.ones(n, width) / n) for n in token_counts)
        self.shared = nn.ModuleList(nn.Linear(width, shared_width) for _ in token_counts)
        self.private = nn.ModuleList(nn.Linear(width, PRIVATE) for _ in token_counts)

    def forward(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed."""
        pooled = [(torch.relu(x) * weight).sum(dim=1) for x, weight in zip(projected, self.weight, strict=True)]
        shared = torch.stack([layer(x) for layer, x in zip(self.shared, pooled, strict=True)], dim=1)
        private = torch.stack([layer(x) for layer, x in zip(self.private, pooled, strict=True)], dim=1)
        private = private * torch.rsqrt(private.square().mean(dim=2, keepdim=True) + 1e-5)
        return shared * torch.rsqrt(shared.square().sum(dim=2, keepdim=True) + 1e-6), private
