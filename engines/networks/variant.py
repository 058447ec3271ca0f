"""What all fusion variants have in common: their contract, their budget, and an ending for those that fuse into one vector."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS
from engines.networks.front import Fronted, Recall
from engines.networks.layout import FusionLayout

BUDGET = 125_000
"""Parameters of every variant, within `TOLERANCE`, so that a comparison is of structures and not of sizes."""
TOLERANCE = 0.1
RECALL_WIDTH = 24
"""Channels of a memory entry where it is flattened into a vector."""


class Perceived(NamedTuple):
    """What a network makes of one instant, before it looks at its memory."""

    state: tuple[Tensor, ...]
    """For `FusionNetwork.decide`."""
    memory_token: Tensor
    """``[b, 64]``, each value within -1 to 1."""
    front: Fronted | None
    """Context and parts of the streams; None for early fusion, which has no tokens."""


class FusionNetwork(nn.Module):
    """A fusion variant.

    It reads, in the order of the layout's streams, tokens ``[b, n_s, 64]`` (early fusion: low-level features
    ``[b, steps_s, channels_s]``), ``age_s [b, streams]``, ``mask [b, streams, 3]`` one-hot over present, quiet and absent, and
    a memory of K entries, newest first: ``memory [b, K, 64]``, ``memory_age_s [b, K]``, ``memory_mask [b, K]`` (1: there). It
    gives one logit tensor a head ``[b, classes]``, in the layout's order, and the instant's own memory token ``[b, 64]``. That
    token depends on the instant alone, never on the memory: so a memory of K entries forgets what is older.
    """

    reads: ClassVar[Literal["tokens", "low_level"]] = "tokens"
    layout: FusionLayout

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """Make what can be made of one instant without the memory."""
        raise NotImplementedError

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits from what was perceived and from the memory."""
        raise NotImplementedError

    def forward(
        self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor, memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Fuse: logits by head, and the memory token."""
        seen = self.perceive(inputs, age_s, mask)
        return self.decide(seen.state, memory, memory_age_s, memory_mask), seen.memory_token

    def unimodal_logits(
        self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, ...] | None:
        """Logits of each stream by itself, one ``[b, streams, classes]`` a head, where the structure has them; else None."""
        return None

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that all heads have in common: all but those of the last layers, which are named ``heads``."""
        return (p for name, p in self.named_parameters() if "heads" not in name.split("."))


class Flat(nn.Module):
    """A variant whose arguments and results are plain tensors, as an exported graph wants them.

    Reads one tensor a stream, ``age_s``, ``mask``, ``memory``, ``memory_age_s``, ``memory_mask`` (no memory arguments where the
    layout has no entries); gives the logits of each head, then the memory token.
    """

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Fuse."""
        count = len(self.network.layout.streams)
        seen = self.network.perceive(list(inputs[:count]), inputs[count], inputs[count + 1])
        memory = inputs[count + 2 :] or empty_memory(len(inputs[count]))
        return *self.network.decide(seen.state, *memory), seen.memory_token


def empty_memory(batch: int, entries: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Memory, ages and mask of a network that has seen nothing yet."""
    return torch.zeros(batch, entries, TOKEN_CHANNELS), torch.zeros(batch, entries), torch.zeros(batch, entries)


class Ending(nn.Module):
    """From one fused vector ``[b, size]`` to the memory token and, with the memory, to logits by head."""

    def __init__(self, layout: FusionLayout, size: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.remember = nn.Linear(size, TOKEN_CHANNELS)
        self.recall = Recall(RECALL_WIDTH) if layout.memory_entries else None
        self.mix = nn.Linear(size + RECALL_WIDTH * layout.memory_entries, hidden)
        self.mixed = nn.Linear(hidden, hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden, len(labels)) for labels in layout.heads.values())

    def perceived(self, vector: Tensor, front: Fronted | None) -> Perceived:
        """Normalise the vector and make the memory token."""
        vector = self.norm(vector)
        return Perceived((vector,), torch.tanh(self.remember(vector)), front)

    def forward(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Mix with the memory and decide."""
        (vector,) = state
        if self.recall is not None:
            vector = torch.cat([vector, self.recall(memory, memory_age_s, memory_mask).flatten(1)], dim=1)
        hidden = torch.relu(self.mix(vector))
        hidden = hidden + torch.relu(self.mixed(hidden))
        return tuple(head(hidden) for head in self.heads)


Network = TypeVar("Network", bound=nn.Module)


def parameter_count(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in network.parameters())


def fitted(build: Callable[[int], Network], sizes: Sequence[int]) -> Network:
    """The network whose parameter count is nearest to `BUDGET`, where ``build(size)`` grows with ``size``.

    Counting builds nothing (torch's meta device), so that a seed gives the same weights whatever was tried before. Raises
    ValueError when no size comes within `TOLERANCE`.
    """

    def count(size: int) -> int:
        with torch.device("meta"):
            return parameter_count(build(size))

    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(sizes[middle]) >= BUDGET else (middle + 1, high)
    best = min(sizes[max(low - 1, 0) : low + 1], key=lambda size: abs(count(size) - BUDGET))
    if abs(count(best) - BUDGET) > TOLERANCE * BUDGET:
        raise ValueError(f"{count(best)} parameters at size {best}; no size in {sizes} gives {BUDGET} within {TOLERANCE:.0%}")
    return build(best)
