"""The hosts of a run: where its stages are placed, one time axis for all, and what it leaves in the shared memory of each."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.host import wait_until_gone
from actors.stage import Opened
from actors.wiring import RunIdentity
from pipeline.clock import ClockOffset, clock_domain, offset_of
from pipeline.config import ConfigError
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.links.sweeping import sweep, sweep_dead

ROUNDS = 20
"""Calls a measurement: the quickest counts, so it is enough that one of them was not held up."""
CALL_S = 2.0
MEASURE_EVERY_S = 10.0
LOST_AFTER_S = 60.0
GONE_S = 2.0


def placements(place: Mapping[str, str], stages: set[str]) -> dict[str, dict[str, Any]]:
    """Ray options of every stage: on the host that offers its resource, else on this one.

    Raises ConfigError for a stage that the run does not have and for a resource that no host offers.
    """
    unknown = sorted(set(place) - stages)
    if unknown:
        raise ConfigError(f"runtime.place.{unknown[0]}: this run has no such stage; it has {', '.join(sorted(stages))}")
    offered = ray.cluster_resources() if place else {}
    for stage, resource in place.items():
        if resource not in offered:
            raise ConfigError(
                f"runtime.place.{stage}: no host offers {resource!r}; join one with "
                f"ray start --address=HEAD:PORT --resources='{{\"{resource}\": 1}}', and set runtime.ray_address"
            )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {s: {"resources": {place[s]: 0.001}} if s in place else {"scheduling_strategy": here} for s in stages}


class HostClocks:
    """Keeps the clocks of stages on other hosts on the axis of this one's."""

    def __init__(self, actors: Mapping[str, Any], opened: Mapping[str, Opened], limit_ns: int) -> None:
        self._actors, self._limit_ns = actors, limit_ns
        own = clock_domain()
        self._stages: dict[str, list[str]] = {}
        for stage, one in opened.items():
            if one.clock_domain != own:
                self._stages.setdefault(one.clock_domain, []).append(stage)
        self._over = Event()
        self._thread: Thread | None = None
        self.failures: list[str] = []

    def align(self) -> dict[str, ClockOffset]:
        """Measure and map every stage on another host, before the run. Raises ConfigError where that is too uncertain."""
        offsets: dict[str, ClockOffset] = {}
        for stages in self._stages.values():
            try:
                offset = _measured(self._actors[stages[0]])
            except RayError as error:
                raise ConfigError(
                    f"stage {stages[0]}: its host does not tell its time within {CALL_S:g} s; see its Ray logs"
                ) from error
            if offset.uncertainty_ns > self._limit_ns:
                raise ConfigError(
                    f"stage {stages[0]}: its host's clock is known within {offset.uncertainty_ns / 1e6:.3f} ms only, "
                    f"runtime.clock_uncertainty_ms is {self._limit_ns / 1e6:g}; use a quicker network, or raise that"
                )
            ray.get([self._actors[s].steer_clock.remote(offset.offset_ns, True) for s in stages])
            offsets.update(dict.fromkeys(stages, offset))
        return offsets

    def start(self) -> None:
        """Measure again every 10 s, until `stop`: quartz drifts by up to 50 us a second."""
        if self._stages:
            self._thread = Thread(target=self._keep, name="host clocks", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Let the clocks go."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(CALL_S)

    def _keep(self) -> None:
        known_at = dict.fromkeys(self._stages, time.monotonic())
        while not self._over.wait(MEASURE_EVERY_S):
            for domain, stages in self._stages.items():
                try:
                    offset = _measured(self._actors[stages[0]])
                except RayError:
                    continue  # the supervisor says who died
                if offset.uncertainty_ns <= self._limit_ns:
                    known_at[domain] = time.monotonic()
                    for stage in stages:
                        self._actors[stage].steer_clock.remote(offset.offset_ns, False)
                elif time.monotonic() - known_at[domain] > LOST_AFTER_S:
                    known_at[domain] = time.monotonic()
                    self.failures.append(
                        f"{', '.join(stages)}: for {LOST_AFTER_S:g} s the host's clock could not be compared within "
                        f"{self._limit_ns / 1e6:g} ms"
                    )


def _measured(actor: Any) -> ClockOffset:
    rounds = []
    for _ in range(ROUNDS):
        sent_ns = time.monotonic_ns()
        there_ns = ray.get(actor.read_clock.remote(), timeout=CALL_S)
        rounds.append((sent_ns, there_ns, time.monotonic_ns()))
    return offset_of(rounds)


class Caretaker:
    """Owns a run's shared memory on another host, as the driver does on its own."""

    def __init__(self, identity: RunIdentity) -> None:
        self._identity = identity
        identity.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep_dead(identity.root.parent)
        self._owned = SharedMemoryNode(identity.run_id, identity.root, owner=True).__enter__()

    def ready(self) -> int:
        """Its process id, once it owns what it must."""
        return os.getpid()

    def sweep(self, pids: list[int]) -> None:
        """Once these processes are gone, remove what they left."""
        self._owned.__exit__(None, None, None)
        wait_until_gone(pids, GONE_S)
        sweep(self._identity.run_id, self._identity.root)


CaretakerActor: Any = ray.remote(num_cpus=0, max_restarts=0)(Caretaker)


class Caretakers:
    """One on every other host that has stages of the run."""

    def __init__(self, identity: RunIdentity, opened: Mapping[str, Opened]) -> None:
        here: str = ray.get_runtime_context().get_node_id()
        self._pids: dict[str, list[int]] = {}
        for one in opened.values():
            if one.node_id != here:
                self._pids.setdefault(one.node_id, []).append(one.pid)
        self._actors = {
            node: CaretakerActor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(identity)
            for node in self._pids
        }
        ray.get([actor.ready.remote() for actor in self._actors.values()])

    def sweep(self) -> None:
        """After the run's actors were killed; a host that does not answer is swept when the next run comes to it."""
        sweeping = [actor.sweep.remote(self._pids[node]) for node, actor in self._actors.items()]
        ray.wait(sweeping, num_returns=len(sweeping), timeout=GONE_S + CALL_S) if sweeping else None
        for actor in self._actors.values():
            ray.kill(actor)
