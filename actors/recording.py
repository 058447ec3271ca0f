"""Opening the log of a run, with what its replay will need to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata

from actors.plan import RunPlan, load_manifests
from pipeline.clock import wall_offset_ns
from pipeline.config import SCENARIOS
from pipeline.logs.writer import LogWriter
from pipeline.sources.base import StreamInfo


def open_log(plan: RunPlan, infos: Mapping[str, StreamInfo], origin_ns: int) -> LogWriter | None:
    """The writer of a run that is recorded, or None."""
    if plan.record is None:
        return None
    about = {
        "config_sha256": plan.scenario.sha256,
        "simulated": "true" if infos and all(i.simulated for i in infos.values()) else "false",
        "notices": "\n".join(plan.notices),
        "creator": f"chiasm {version()}",
        "scenario_config": plan.scenario.model_dump_json(),
        **({} if plan.folder.is_relative_to(SCENARIOS) else {"scenario_folder": str(plan.folder.resolve())}),
    }
    if plan.decides:
        manifests = load_manifests(plan.scenario, plan.folder)
        about["engines"] = json.dumps({role: manifest.sha256 for role, (_, manifest) in manifests.items()})
    return LogWriter(
        plan.record,
        scenario=plan.scenario.name,
        origin_ns=origin_ns,
        streams=list(infos.values()),
        metadata=about,
        clock_offset_ns=wall_offset_ns(),
    )


def version() -> str:
    """The installed version, or "uninstalled" in a bare checkout."""
    try:
        return metadata.version("chiasm")
    except metadata.PackageNotFoundError:
        return "uninstalled"
