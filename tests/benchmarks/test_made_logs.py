from itertools import pairwise

from benchmarks.made_logs import DEMO_LOG, write_repeated_log
from pipeline.logs.reader import LogReader
from pipeline.messages import AnnouncementKind, Recording


def samples(recordings: list[Recording]) -> list[Recording]:
    return [r for r in recordings if r.announcement.kind is AnnouncementKind.SAMPLE]


def test_repeated_log_holds_every_sample_twice_and_its_stamps_and_seq_go_on(tmp_path):
    path = tmp_path / "twice.mcap"
    pass_s = write_repeated_log(path, DEMO_LOG, 2, lambda _: None)
    once, twice = LogReader(DEMO_LOG), LogReader(path)
    for stream in once.streams:
        before, after = samples(list(once.recordings(stream))), samples(list(twice.recordings(stream)))
        headers = [r.announcement.header for r in after]
        assert [r.chunks for r in after] == 2 * [r.chunks for r in before]
        assert [h.seq for h in headers] == list(range(len(headers)))
        assert all(a.capture_ns < b.capture_ns and a.receive_ns < b.receive_ns for a, b in pairwise(headers))
        assert headers[len(before)].capture_ns == before[0].announcement.header.capture_ns + round(pass_s * 1e9)
    ends = [r.announcement.kind for r in twice.recordings("camera") if r.announcement.kind is not AnnouncementKind.SAMPLE]
    assert ends == [AnnouncementKind.END]


def test_repeated_log_holds_the_truth_of_both_passes_in_order(tmp_path):
    path = tmp_path / "twice.mcap"
    pass_s = write_repeated_log(path, DEMO_LOG, 2, lambda _: None)
    once, twice = list(LogReader(DEMO_LOG).truth()), list(LogReader(path).truth())
    later = [{**t, "time_ns": t["time_ns"] + round(pass_s * 1e9)} for t in once]
    assert twice == once + later
