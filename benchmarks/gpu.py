"""Every shipped engine on an NVIDIA GPU: TensorRT in fp32, fp16 and int8, beside torch, torch.compile and ONNX Runtime.

    python -m benchmarks.gpu prepare FOLDER     where the whole runtime is installed, a GPU or not
    python -m benchmarks.gpu measure FOLDER     where the GPU is; needs only `engines` and numpy there
        --with PYTHON                           an interpreter whose backends take part; repeatable; default: this one
    python -m benchmarks.gpu show FILE          the tables of a result
        --picture PNG                           and its medians as a picture

`prepare` derives the graphs, samples windows from the shipped logs and writes down what the reference makes of them, for a box
with a GPU may have an old Python and no network. `measure` writes ``gpu-DATE.json`` and the raw samples to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_measuring import TENSORRT, measure

WINDOWS = 32
"""Of each engine."""
SCENARIOS = ("driving", "patient")
COLOURS = {
    "tensorrt fp32": "#1b6e3c", "tensorrt fp16": "#46a067", "tensorrt int8": "#9ad0ab",
    "torch+compile": "#c98a2b", "torch": "#e6c590", "ort-cuda": "#4a6fa5", "ort": "#9a9a9a",
}  # fmt: skip
"""Contender to the colour of its bars, in their order. ``ort`` is the reference on the CPU."""
RESULTS = Path(__file__).parent / "results" / "gpu"


def prepare(folder: Path) -> None:
    """Graphs in all precisions, windows of the shipped logs, and the reference's outputs on them."""
    from actors.building import prepared_engine
    from actors.calibration import calibration_windows
    from actors.plan import load_manifests, replay_plan
    from benchmarks.environment import environment
    from engines.cache import default_cache
    from engines.registry import EngineChoice, open_engine
    from engines.windows import save_windows
    from pipeline.config import load_scenario, scenario_folder

    engines = []
    for name in SCENARIOS:
        scenario = load_scenario(scenario_folder(name))
        assert scenario.demo_log is not None
        replay = replay_plan(scenario, scenario_folder(name), scenario_folder(name) / scenario.demo_log)
        for role, (manifest, _) in load_manifests(scenario, scenario_folder(name)).items():
            print(f"{name}/{role}", file=sys.stderr, flush=True)
            engines.append(f"{name}/{role}")
            for contender in TENSORRT:
                precision: Any = contender.partition(" ")[2]
                choice = EngineChoice(backend="tensorrt", precision=precision)
                source = prepared_engine(manifest, choice, default_cache(), replay)
                target = folder / name / precision
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target / f"{role}.json")
                shutil.copy(source.parent / f"{role}.onnx", target / f"{role}.onnx")
            windows = calibration_windows(replay, role, default_cache())
            windows = windows[:: max(1, len(windows) // WINDOWS)][:WINDOWS]
            save_windows(folder / name / f"{role}.windows.npz", windows)
            with open_engine(manifest) as reference:
                outputs = [{n: a.copy() for n, a in reference.infer(w).items()} for w in windows]
            save_windows(folder / name / f"{role}.reference.npz", outputs)
    prepared = {"engines": engines, "windows": WINDOWS, "reference": "ort, fp32, on the CPU", "on": environment()}
    (folder / "prepared.json").write_text(json.dumps(prepared, indent=1) + "\n", encoding="utf-8")


def show(report: dict[str, Any]) -> None:
    """Latency of every engine, and its distance from the reference, in a table each."""
    print(f"{report['date'][:10]}, {report['machine']['gpu']}")
    for engine, contenders in report["engines"].items():
        print(f"\n{engine:<22}{'p50':>8}{'p99':>8}{'p99.9':>8}{'device':>8}{'no graph':>9}{'max|a-b|/max|a|':>17}")
        for name, found in contenders.items():
            if "error" in found:
                print(f"{name:<22}{found['error'][:90]}")
                continue
            latency = found["latency_ms"]
            host = latency["host to host"]
            cells = [host.get(p) for p in ("p50", "p99", "p99.9")]
            cells += [latency.get(s, {}).get("p50") for s in ("device only", "host to host, no graph")]
            worst = max(p["max_relative"] for p in found["parity"])
            figures = "".join(f"{'–' if c is None else format(c, '.3f'):>{8 + (i == 4)}}" for i, c in enumerate(cells))
            print(f"{name:<22}{figures}{worst:>17.1e}")


def draw(report: dict[str, Any], path: Path) -> None:
    """Medians of every engine, host to host, as one bar a contender, on a log scale."""
    from matplotlib.figure import Figure

    engines = list(report["engines"])
    names = [n for n in COLOURS if any("latency_ms" in found.get(n, {}) for found in report["engines"].values())]
    figure = Figure(figsize=(8.5, 0.62 * len(engines) + 1.4), layout="constrained")
    axes = figure.subplots()
    height = 0.84 / len(names)
    for row, engine in enumerate(engines):
        for place, name in enumerate(names):
            ms = report["engines"][engine].get(name, {}).get("latency_ms", {}).get("host to host", {}).get("p50")
            if ms is not None:
                y = row + (place - (len(names) - 1) / 2) * height
                axes.barh(y, ms, height * 0.92, color=COLOURS[name])
                axes.text(ms * 1.03, y, f"{ms:.2f}", va="center", fontsize=6, color="#444444")
    axes.set_yticks(range(len(engines)), [engine.replace("/", " ") for engine in engines])
    axes.set_xscale("log")
    axes.set_xlim(0.03, 6)
    axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.set_xlabel("ms a call, host to host, median (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    gpu = report["machine"]["gpu"].partition(",")[0]
    handles = [axes.barh(0, 0, color=COLOURS[name]) for name in names]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=8)
    axes.set_title(f"{gpu}, {report['date'][:10]}", fontsize=9, loc="left", color="#444444")
    figure.savefig(path, dpi=150)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["prepare", "measure", "show"])
    parser.add_argument("place", type=Path, help="the prepared folder; for show a result")
    parser.add_argument("--with", dest="commands", action="append", help="an interpreter whose backends take part")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--builders", type=int, default=2, help="processes that build plans at once")
    parser.add_argument("--picture", type=Path, help="with show: write the medians as a PNG there")
    options = parser.parse_args()
    if options.verb == "prepare":
        prepare(options.place)
    elif options.verb == "measure":
        show(measure(options.place.resolve(), options.commands or [sys.executable], options.out, options.builders))
    else:
        report = json.loads(options.place.read_text(encoding="utf-8"))
        show(report)
        if options.picture is not None:
            draw(report, options.picture)


if __name__ == "__main__":
    main()
