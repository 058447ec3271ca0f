"""Stage 2 of learning: fusion variants trained on cached tokens, and their predictions. Knows layout and set, no scenario."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.networks.early import EarlyFusion
from engines.networks.layout import FusionLayout
from engines.networks.variant import FusionNetwork, Perceived
from engines.networks.variants import VARIANTS
from engines.training.drawing import Draw, Drawing
from engines.training.instants import ABSENT, FOREVER, Bools, Disturbance, Instants, Ints, Ticks, joined
from engines.training.losses import uncertainty_weighted, without_conflicts
from engines.training.objective import Companions, FusingOptions, Objective, objective
from engines.training.token_set import TokenSet

Memory = tuple[Tensor, Tensor, Tensor]
SAVE_EVERY = 200
"""Steps between two saved states."""


def train_fusion(
    tokens: TokenSet,
    layout: FusionLayout,
    variant: str,
    *,
    seed: int,
    steps: int,
    options: FusingOptions | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    state_path: Path | None = None,
) -> FusionNetwork:
    """Train a fusion variant from scratch; the moving average of its weights is what comes back, on the CPU, for inference.

    The same arguments give the same weights on the same machine and torch. ``on_step`` gets the number of steps done and the
    loss. With ``state_path`` the state is saved there every 200 steps, and a run that finds one goes on from it; the file is
    removed at the end. Uses CUDA where torch sees a device. Raises ValueError for an unknown variant or a set that does not fit,
    RuntimeError for a state of another run.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; use one of {', '.join(VARIANTS)}")
    options = options or FusingOptions()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA refuses to be deterministic
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs a pass over every new tensor
    torch.manual_seed(seed)
    network = VARIANTS[variant](layout, low_level_shapes(tokens))
    if isinstance(network, EarlyFusion):
        _standardise(network, tokens)
    learning = _Learning(network, layout, steps, options)
    ticks = Ticks(tokens, layout, network)
    drawing = Drawing(tokens, layout, ticks, options, seed)
    about = f"{variant} seed {seed} steps {steps} ticks {len(tokens)} {layout} {options}"
    first = learning.restored(state_path, about) if state_path is not None and state_path.exists() else 0
    for step in range(first, steps):
        loss = learning.step(drawing.draw(step), ticks, step, np.random.default_rng((seed, step, 1)))
        if state_path is not None and (step + 1) % SAVE_EVERY == 0 and step + 1 < steps:
            learning.save(state_path, about, step + 1)
        on_step(step + 1, loss)
    if state_path is not None:
        state_path.unlink(missing_ok=True)
    return learning.result()


def low_level_shapes(tokens: TokenSet) -> dict[str, tuple[int, int]]:
    """Stream to steps and channels of its low-level features, for early fusion."""
    return {stream: (array.shape[1], array.shape[2]) for stream, array in tokens.low_level.items()}


def _standardise(network: EarlyFusion, tokens: TokenSet) -> None:
    rows = np.unique(np.linspace(0, len(tokens) - 1, 2000).astype(np.int64))
    network.standardise([torch.from_numpy(np.asarray(tokens.low_level[s][rows])) for s in network.layout.streams])


class _Learning:
    """A network, what learns beside it, the optimiser and the moving average."""

    def __init__(self, network: FusionNetwork, layout: FusionLayout, steps: int, options: FusingOptions) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network, self.options, self.steps = network.to(self.device).train(), options, steps
        self.companions = Companions(layout).to(self.device).train()
        if options.tasks:
            self.chosen = [list(layout.heads).index(head) for head in options.tasks]
        else:
            self.chosen = list(range(len(layout.heads)))
        self.parameters = [*network.parameters(), *self.companions.parameters()]
        rate = options.peak_rate
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate / 25, weight_decay=options.weight_decay, foreach=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, max(steps, 2), pct_start=0.15)
        self._noise = torch.Generator()
        self.averaged = {name: p.detach().clone() for name, p in network.named_parameters()}

    def step(self, draw: Draw, ticks: Ticks, step: int, rng: np.random.Generator) -> float:
        self._noise.manual_seed(int(rng.integers(1 << 62)))
        found = objective(
            self.network,
            self.companions,
            *self._seen(draw, ticks),
            _target_on(draw, self.device),
            self.options,
            step / max(self.steps, 1),
        )
        self.optimizer.zero_grad()
        loss = self._backward(found, rng)
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.schedule.step()
        # a short run must not be remembered for its first steps: the average's memory grows with the run
        decay = min(self.options.averaging, (1 + step) / (10 + step))
        with torch.no_grad():
            mean = list(self.averaged.values())
            torch._foreach_lerp_(mean, [p.detach() for p in self.network.parameters()], 1 - decay)
        return loss

    def _seen(self, draw: Draw, ticks: Ticks) -> tuple[Perceived, Memory, Tensor]:
        """What the network makes of a batch's views, its memory, and the mask."""
        views = draw.complete if draw.masked is None else joined(draw.complete, draw.masked)
        count = 1 if draw.masked is None else 2
        rows = np.tile(draw.rows, count)
        lags, entries = np.tile(draw.lags, (count, 1)), np.tile(draw.entries, (count, 1))
        batch, count = lags.shape
        now = self._jittered(_on(ticks.read(rows, views), self.device), ticks)
        age = torch.from_numpy((lags * ticks.tick_s).astype(np.float32)).to(self.device)
        mask = torch.from_numpy(entries.astype(np.float32)).to(self.device)
        memory = torch.zeros(batch, count, 64, device=self.device)
        # a gradient through one entry of each memory tells what to remember, in half the time of one through all
        taught = np.arange(entries.shape[1]) == np.tile(draw.taught, len(entries) // len(draw.taught))[:, None]
        for with_gradient, chosen in ((False, entries & ~taught), (True, entries & taught)):
            which, entry = np.nonzero(chosen)
            if not len(which):
                continue
            past = self._jittered(_on(ticks.read(rows[which], views[which], lags[which, entry]), self.device), ticks)
            with torch.set_grad_enabled(with_gradient):
                token = self.network.perceive(*past).memory_token
            place = (torch.from_numpy(which).to(self.device), torch.from_numpy(entry).to(self.device))
            memory = memory.index_put(place, token)
        return self.network.perceive(*now), (memory, age, mask), now.mask

    def _jittered(self, instants: Instants, ticks: Ticks) -> Instants:
        if self.options.jitter:
            for x, spread in zip(instants.inputs, ticks.spread, strict=True):
                noise = torch.randn(x.shape, generator=self._noise).to(x.device)
                x.addcmul_(noise, spread.to(x.device), value=self.options.jitter)  # read for this step, and nobody else's
        return instants

    def _backward(self, found: Objective, rng: np.random.Generator) -> float:
        """Set the gradients; the loss as a number."""
        if self.options.weighting == "uncertainty":
            tasks = uncertainty_weighted(found.tasks, self.companions.log_variances[self.chosen])
        else:
            tasks = torch.stack(found.tasks).sum()
        if self.options.weighting != "pcgrad" or len(found.tasks) < 2:
            (tasks + found.rest).backward()
            return float((tasks + found.rest).detach())
        shared = list(self.network.shared_parameters())
        flat = []
        for task in found.tasks:
            gradients = torch.autograd.grad(task, shared, retain_graph=True, allow_unused=True)
            flat.append(nn.utils.parameters_to_vector([_or_zero(g, p) for g, p in zip(gradients, shared, strict=True)]))
        others = [rng.permutation([i for i in range(len(flat)) if i != own]).tolist() for own in range(len(flat))]
        change = without_conflicts(flat, others) - torch.stack(flat).sum(dim=0)
        (tasks + found.rest).backward()
        offset = 0
        for parameter in shared:
            part = change[offset : offset + parameter.numel()].view_as(parameter)
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad + part
            offset += parameter.numel()
        return float((tasks + found.rest).detach())

    def save(self, path: Path, about: str, done: int) -> None:
        state = {
            "about": about,
            "done": done,
            "network": self.network.state_dict(),
            "companions": self.companions.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(path.suffix + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def restored(self, path: Path, about: str) -> int:
        """The number of steps done by then."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["about"] != about:
            raise RuntimeError(f"{path} is the state of another run ({state['about']}); remove it or name another state_path")
        self.network.load_state_dict(state["network"])
        self.companions.load_state_dict(state["companions"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.averaged = state["averaged"]
        return int(state["done"])

    def result(self) -> FusionNetwork:
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(self.averaged[name])
        network: FusionNetwork = self.network.cpu().train(False)
        return network


def predict(
    network: FusionNetwork,
    tokens: TokenSet,
    *,
    present: tuple[bool, ...],
    delay_s: Mapping[str, float] | None = None,
    frozen: Mapping[str, tuple[float, float]] | None = None,
    batch: int = 1024,
    rows: Ints | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Logits by head, float32 ``[n, classes]``, at every tick of a set or at ``rows`` (rising), as the runtime would decide.

    ``present``: which streams there are at all. ``delay_s``: stream to how late its tokens come, in whole ticks. ``frozen``:
    stream to (every, for): every so many seconds of a run the sensor repeats itself for so many seconds. All of it holds in the
    remembered instants too. The memory is the runtime's: its entries are made at a run's start and then every memory step, and a
    decision reads the newest K that are older than itself. Raises ValueError for streams that the layout does not have.
    """
    layout = network.layout
    ticks = Ticks(tokens, layout, network)
    befall = _befalling(ticks, layout, present, delay_s or {}, frozen or {})
    rows = np.arange(len(tokens)) if rows is None else np.asarray(rows, np.int64)
    lags, there = _entries(ticks, layout, rows)
    made = np.unique((rows[:, None] - lags)[there])
    logits: list[list[Tensor]] = [[] for _ in layout.heads]
    with torch.inference_mode():
        token = torch.zeros(len(made) + 1, 64)
        for part in _parts(len(made), batch):
            token[part] = network.perceive(*ticks.read(made[part], befall(made[part]))).memory_token
        place = np.where(there, np.searchsorted(made, np.where(there, rows[:, None] - lags, 0)), len(made))
        for part in _parts(len(rows), batch):
            seen = network.perceive(*ticks.read(rows[part], befall(rows[part])))
            age = torch.from_numpy((lags[part] * ticks.tick_s).astype(np.float32))
            mask = torch.from_numpy(there[part].astype(np.float32))
            memory = token[torch.from_numpy(place[part].reshape(-1))].unflatten(0, place[part].shape)
            for head, value in zip(logits, network.decide(seen.state, memory, age, mask), strict=True):
                head.append(value)
    return {name: torch.cat(parts).numpy() for name, parts in zip(layout.heads, logits, strict=True)}


def _entries(ticks: Ticks, layout: FusionLayout, rows: Ints) -> tuple[Ints, Bools]:
    """``[n, K]``: how many ticks ago each memory entry of a decision was made, newest first; and whether there is one."""
    since, step = rows - ticks.start[rows], ticks.step_ticks
    newest = (since - 1) // step * step
    made = newest[:, None] - step * np.arange(layout.memory_entries)
    there = made >= 0  # at a run's start newest is negative
    return np.where(there, since[:, None] - made, 0), there


def _befalling(
    ticks: Ticks,
    layout: FusionLayout,
    present: tuple[bool, ...],
    delay_s: Mapping[str, float],
    frozen: Mapping[str, tuple[float, float]],
) -> Callable[[Ints], Disturbance]:
    """What befalls the streams at given ticks."""
    strays = sorted({*delay_s, *frozen} - set(layout.streams))
    if strays or len(present) != len(layout.streams):
        raise ValueError(f"present is {present}, delay_s and frozen also name {strays}; the streams are {layout.streams}")
    delay = np.array([round(delay_s.get(s, 0.0) / ticks.tick_s) for s in layout.streams], np.int64)
    lost = np.where(np.array(present), 0, FOREVER)

    def befall(rows: Ints) -> Disturbance:
        shape = (len(rows), len(layout.streams))
        stuck = np.zeros(shape, np.int64)
        for stream, (every_s, for_s) in frozen.items():
            index = layout.streams.index(stream)
            since = rows - ticks.start[rows] - delay[index]
            phase = since % max(1, round(every_s / ticks.tick_s))
            sticks = (phase < round(for_s / ticks.tick_s)) & (since > 0)
            stuck[:, index] = np.where(sticks, phase + delay[index], 0)
        return Disturbance(
            delay_ticks=np.broadcast_to(delay, shape),
            stuck_ticks=stuck,
            lost_ticks=np.broadcast_to(lost, shape),
            lost_state=np.full(shape, ABSENT),
        )

    return befall


def _parts(count: int, batch: int) -> Iterator[slice]:
    return (slice(start, min(start + batch, count)) for start in range(0, count, batch))


def _or_zero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


def _on(instants: Instants, device: torch.device) -> Instants:
    if device.type == "cpu":
        return instants
    return Instants([x.to(device) for x in instants.inputs], instants.age_s.to(device), instants.mask.to(device))


def _target_on(draw: Draw, device: torch.device) -> Any:
    target = draw.target
    if device.type == "cpu":
        return target
    moved = {k: {h: x.to(device) for h, x in getattr(target, k).items()} for k in ("labels", "weights", "log_ratios")}
    return type(target)(**moved, apart=target.apart.to(device), directions=target.directions.to(device))
