"""The yardstick for start-up: Ray with the runtime's own settings, and so many actors that do nothing, each answering once.

``python -m benchmarks.empty_actors ACTORS CPUS OBJECT_STORE_BYTES`` prints one line when all have answered. It imports
nothing of ours.
"""

from __future__ import annotations

import logging
import os
import sys

import ray


class Empty:
    """Does nothing."""

    def answer(self) -> bool:
        """Be there."""
        return True


def main(actors: int, cpus: int, object_store_bytes: int) -> None:
    """Start, have every actor answer, say so, stop."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - this is how Ray spells it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray").setLevel(logging.WARNING)
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=object_store_bytes,
    )
    remote = ray.remote(num_cpus=0)(Empty)
    handles = [remote.remote() for _ in range(actors)]
    ray.get([handle.answer.remote() for handle in handles])
    print("answered", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
