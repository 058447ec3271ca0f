"""Late fusion: every stream decides by itself, then the decisions are combined. Streams cannot qualify one another."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS
from engines.networks.front import WIDTH, Front, Recall, StreamVectors
from engines.networks.layout import FusionLayout
from engines.networks.variant import RECALL_WIDTH, FusionNetwork, Perceived

Combination = Literal["mean", "stacking"]


class LateFusion(FusionNetwork):
    """Unimodal networks with their own logits, combined by ``mean`` or ``stacking`` (Wolpert, "Stacked Generalization", 1992).

    ``mean``: the mean of the present streams' probabilities, as a log. ``stacking``: a sum of the streams' logits with learned
    weights and offsets that depend on which streams are there, and on nothing else. Both are additive in functions of single
    streams (``mean`` in the probabilities), so neither can represent that one stream's meaning hangs on another's. The memory
    token is cut in as many slices as there are streams, and each stream writes and reads its own slice alone: otherwise streams
    would meet in the memory. ``size``: of a stream's vector.
    """

    def __init__(self, layout: FusionLayout, combination: Combination, size: int) -> None:
        super().__init__()
        self.layout = layout
        self.combination = combination
        streams = len(layout.streams)
        self.slice = TOKEN_CHANNELS // streams
        self.front = Front(layout)
        self.vectors = StreamVectors(layout, WIDTH, size)
        self.remember = nn.ModuleList(nn.Linear(size, self.slice) for _ in layout.streams)
        self.recall = nn.ModuleList(Recall(RECALL_WIDTH, self.slice) for _ in layout.streams if layout.memory_entries)
        self.mix = nn.ModuleList(nn.Linear(size + RECALL_WIDTH * layout.memory_entries, 2 * size) for _ in layout.streams)
        self.mixed = nn.ModuleList(nn.Linear(2 * size, 2 * size) for _ in layout.streams)
        classes = [len(labels) for labels in layout.heads.values()]
        self.alone = nn.ModuleList(nn.Linear(2 * size, sum(classes)) for _ in layout.streams)
        self.prior = nn.ParameterList(nn.Parameter(torch.zeros(c)) for c in classes)
        if combination == "stacking":
            self.heads = nn.ModuleList(nn.Linear(3 * streams, streams + c) for c in classes)
            for head in self.heads:
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """A vector and a memory slice for each stream."""
        front = self.front(inputs, age_s, mask)
        vectors = self.vectors(front.streams)
        slices = torch.cat([torch.tanh(layer(v)) for layer, v in zip(self.remember, vectors, strict=True)], dim=1)
        token = nn.functional.pad(slices, (0, TOKEN_CHANNELS - slices.shape[1]))
        # unimodal logits need the memory, which is known only when deciding
        return Perceived((*vectors, mask), token, front)

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Combine the unimodal logits."""
        alone = self.unimodal_logits(state, memory, memory_age_s, memory_mask)
        mask = state[-1]
        present = mask[:, :, 0]
        combine = self._stacked if self.combination == "stacking" else self._mean
        return tuple(combine(index, logits, present, mask) for index, logits in enumerate(alone))

    def unimodal_logits(
        self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Each stream's own logits, one ``[b, streams, classes]`` a head."""
        rows = []
        for index, vector in enumerate(state[:-1]):
            if self.layout.memory_entries:
                own = memory[:, :, index * self.slice : (index + 1) * self.slice]
                recalled = self.recall[index](own, memory_age_s, memory_mask)
                vector = torch.cat([vector, recalled.flatten(1)], dim=1)
            hidden = torch.relu(self.mix[index](vector))
            rows.append(self.alone[index](hidden + torch.relu(self.mixed[index](hidden))))
        classes = [len(labels) for labels in self.layout.heads.values()]
        return tuple(torch.stack(rows, dim=1).split(classes, dim=2))

    def _mean(self, index: int, logits: Tensor, present: Tensor, mask: Tensor) -> Tensor:
        """Log of the mean probability; the prior where no stream is present."""
        probability = torch.softmax(logits, dim=2)
        count = present.sum(dim=1, keepdim=True)
        mean = (probability * present[:, :, None]).sum(dim=1) / torch.clamp(count, min=1.0)
        prior = torch.softmax(self.prior[index], dim=0)
        return torch.log(torch.clamp(torch.where(count > 0.5, mean, prior), min=1e-9))

    def _stacked(self, index: int, logits: Tensor, present: Tensor, mask: Tensor) -> Tensor:
        """Prior + offset(mask) + sum over the present of weight(mask) times its logits, weights positive."""
        learned = self.heads[index](mask.flatten(1))
        streams = len(self.layout.streams)
        weight = nn.functional.softplus(learned[:, :streams] + 0.5) * present
        return self.prior[index] + learned[:, streams:] + (weight[:, :, None] * logits).sum(dim=1)
