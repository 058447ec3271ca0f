"""The contenders do the same job to the bit; a hop notes what came; ratios are of rounds that ran beside each other."""

import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.comparing import in_turn
from benchmarks.beside_peers import SETTLE_NS
from benchmarks.contenders import JOBS, Contender, ContenderFailed, hop_contenders, run_contender
from benchmarks.hops.schedule import PAUSE_NS, Phase, Schedule
from benchmarks.job_making import LONGEST_S, make_job
from benchmarks.peers.environments import REQUIREMENTS
from benchmarks.peers.job import Encoders, Job, Joiner
from benchmarks.ratios import percentile_of, ratio_of
from engines.backends.base import BackendUnavailable

SECONDS = 3.0


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return Job(make_job(tmp_path_factory.mktemp("jobs") / "job", SECONDS))


@pytest.fixture(scope="module")
def expected(job) -> np.ndarray:
    """The outputs without any runtime and without any time passing."""
    try:
        with Encoders(job, *job.streams) as encoders, Joiner(job) as joiner:
            for ticket, payload in job.samples(*job.streams):
                for encoded, values in encoders.encode(ticket, payload):
                    joiner.take(encoded, values)
            assert joiner.done
            return np.array(joiner.outputs)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


def play(name: str, job: Job, out: Path) -> tuple[dict[str, np.ndarray], float]:
    ran = run_contender(JOBS[name], job.folder, out, job.end_ns, say=quiet)
    return dict(np.load(ran.folder / "decisions.npz")), ran.cpu_s


@pytest.mark.parametrize("name", ["bare", "inline", "queues", pytest.param("chiasm", marks=pytest.mark.ray)])
def test_contenders_make_the_same_decisions_to_the_bit(name, job, expected, tmp_path):
    made, cpu_s = play(name, job, tmp_path / "out")
    assert made["reference_ns"].tolist() == job.references_ns.tolist()
    assert (made["outputs"] == expected).all()
    assert (made["publish_ns"] > made["due_ns"] + made["encode_ns"] + made["fuse_ns"]).all(), (
        "nothing can be done before it is due"
    )
    assert cpu_s > 0


@pytest.mark.ray
@pytest.mark.parametrize("name", ["ray", "graph"])
def test_ray_contenders_make_the_same_decisions_to_the_bit(name, job, expected, tmp_path):
    made, _ = play(name, job, tmp_path / "out")
    assert made["reference_ns"].tolist() == job.references_ns.tolist()
    assert (made["outputs"] == expected).all()


def test_contender_that_breaks_is_told_with_its_last_words(job, tmp_path):
    broken = Contender(name="broken", title="broken", module="benchmarks.peers.no_such_module", ready=("loop",))
    with pytest.raises(ContenderFailed, match=r"broken did not begin: .*no_such_module"):
        run_contender(broken, job.folder, tmp_path / "out", job.end_ns, say=quiet)


def test_contender_runs_the_code_of_its_checkout(job, tmp_path):
    package = tmp_path / "earlier" / "benchmarks" / "peers"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "bare_loop.py").write_text("import sys; sys.exit('I am the earlier one')", encoding="utf-8")
    with pytest.raises(ContenderFailed, match="I am the earlier one"):
        earlier = replace(JOBS["bare"], root=tmp_path / "earlier")
        run_contender(earlier, job.folder, tmp_path / "out", job.end_ns, say=quiet)


def test_job_longer_than_the_cameras_gap_is_refused(tmp_path):
    with pytest.raises(ValueError, match="whole for 32 s"):
        make_job(tmp_path / "job", LONGEST_S / 2 + 1, rate=2)


def test_faster_job_holds_the_same_samples_closer_together(job, tmp_path):
    faster = Job(make_job(tmp_path / "job", SECONDS / 2, rate=2))
    assert len(faster.index) == len(job.index)
    for place, stream in enumerate(job.streams):
        if stream != "text":  # lines are moved, to where no hurry decides
            ours, theirs = (j.index[j.index["stream"] == place]["capture_ns"] for j in (job, faster))
            assert np.abs(2 * theirs - ours).max() <= 2, stream
    (_, fast), (_, slow) = (next(j.samples("telemetry")) for j in (faster, job))
    rows = slow.size // (8 + 5 * job.channels)
    assert (fast[8 * rows :] == slow[8 * rows :]).all(), "values and validity stay"
    times = [np.frombuffer(p[: 8 * rows].tobytes(), np.int64) for p in (fast, slow)]
    assert np.abs(2 * times[0] - times[1]).max() <= 2


@pytest.mark.parametrize("name", ["chiasm", "iceoryx2", "queues"])
@pytest.mark.parametrize("senders", [1, 3])
def test_hop_brings_everything_once_with_its_stamps(name, senders, tmp_path):
    if name != "queues" and importlib.util.find_spec("iceoryx2") is None:
        pytest.skip("iceoryx2 has no wheel here")
    phases = (
        Phase(name="small", size=64, period_ns=5_000_000, count=20),
        Phase(name="large", size=921_600, period_ns=10_000_000, count=10),
    )
    schedule = Schedule(phases=phases, senders=senders)
    schedule.save(tmp_path / "spec.json")
    assert Schedule.load(tmp_path / "spec.json") == schedule
    contender = hop_contenders(senders)[name]
    ran = run_contender(contender, tmp_path / "spec.json", tmp_path / "out", schedule.end_ns, say=quiet)
    received = np.load(ran.folder / "received.npy")
    assert sorted(map(tuple, received[:, :2].tolist())) == [(seq, sender) for seq in range(30) for sender in range(senders)]
    assert (received[:, 3] > received[:, 2]).all(), "received after it was sent"
    due_ns = np.array(
        [start + k * p.period_ns for p, start in zip(phases, schedule.starts_ns, strict=True) for k in range(p.count)]
    )
    assert (received[:, 2] >= due_ns[received[:, 0]]).all(), "never sent before it was due"


def test_message_that_the_link_held_up_has_begun_when_it_was_due():
    schedule = Schedule(phases=(Phase(name="p", size=64, period_ns=10_000_000, count=4),))
    origin_ns = time.monotonic_ns() - PAUSE_NS
    begun = []
    for seq, begun_ns, payload in schedule.payloads(origin_ns):
        begun.append((begun_ns - origin_ns - PAUSE_NS) / 1e6)
        assert payload[:24].view(np.int64).tolist() == [seq, 0, begun_ns]
        if seq == 1:
            time.sleep(0.035)  # the link stalls
    assert begun[2:] == [20.0, 30.0], "their wait counts"
    assert begun[1] >= 10.0


def test_ratio_is_the_median_over_rounds_that_both_have():
    found = ratio_of([2.0, 9.0, 3.0], [1.0, 3.0, 3.0, 7.0])
    assert found is not None
    assert (found.median, found.least, found.greatest, found.rounds) == (2.0, 1.0, 3.0, 3)
    assert ratio_of([], [1.0]) is None


def test_round_too_short_for_a_percentile_keeps_its_place_and_pairs_with_nothing():
    figures = percentile_of([np.arange(99), np.arange(1, 101)], 99)
    assert figures == [None, pytest.approx(99.01)]
    found = ratio_of(figures, [1.0, 99.01])
    assert found is not None
    assert (found.median, found.rounds) == (pytest.approx(1.0), 1)


def test_every_peer_has_its_pins_and_the_job_those_of_the_lock_file():
    wanted = {c.environment for c in (*JOBS.values(), *hop_contenders(1).values()) if c.environment}
    for name in ("job", *wanted):
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins and all("==" in line for line in pins), name
    locked = (REQUIREMENTS.parents[2] / "constraints.txt").read_text().splitlines()
    job_pins = [p for p in (REQUIREMENTS / "job.txt").read_text().splitlines() if p and not p.startswith("#")]
    assert set(job_pins) <= set(locked)


def test_gate_one_hop_and_the_whole_way_beside_the_least_that_is_possible(tmp_path):
    """CI's gate: medians of interleaved rounds, several times what is measured on a quiet machine."""
    schedule = Schedule(phases=(Phase(name="900 kB", size=921_600, period_ns=10_000_000, count=80),))
    schedule.save(tmp_path / "spec.json")
    job = Job(make_job(tmp_path / "job", 5.0))
    hop: dict[str, list[float]] = {"chiasm": [], "iceoryx2": []}
    whole: dict[str, list[float]] = {"inline": [], "bare": []}
    for number in range(3):
        for name in in_turn([n for n in hop if importlib.util.find_spec("iceoryx2")], number):
            out = tmp_path / f"hop{number}{name}"
            received = np.load(
                run_contender(hop_contenders(1)[name], tmp_path / "spec.json", out, schedule.end_ns, say=quiet).folder
                / "received.npy"
            )
            hop[name].append(float(np.median(received[:, 3] - received[:, 2])))
        for name in in_turn(list(whole), number):
            made, _ = play(name, job, tmp_path / f"{number}{name}")
            settled = made["reference_ns"] >= SETTLE_NS
            whole[name].append(float(np.median((made["publish_ns"] - made["reference_ns"])[settled])))
    way, link = ratio_of(whole["inline"], whole["bare"]), ratio_of(hop["chiasm"], hop["iceoryx2"])
    assert way is not None and way.median < 1.6, way
    assert link is None or link.median < 4.0, link
