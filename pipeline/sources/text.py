"""Recorded text: a file with one timed line a row."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Self

from pipeline.sources.base import Encoding, Packet, SourceError, SourceSpec, StreamInfo

MAX_TEXT_BYTES = 4096
MAX_FILE_BYTES = 16 * 2**20
MAX_TIME_S = 86_400.0

_LINE = re.compile(rb"([0-9]{1,9}(?:\.[0-9]{1,12})?)(?:[ \t]+(.*))?", re.DOTALL)


def text_info(stream: str, *, min_gap_ns: int, origin: str) -> StreamInfo:
    """What a text source says of itself: sparse, UTF-8."""
    return StreamInfo(
        stream=stream, kind="text", encoding=Encoding(codec="text"), period_ns=0, min_gap_ns=min_gap_ns, origin=origin
    )


class RecordedText:
    """A recording's lines as packets. Entering reads and checks all of them."""

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec, read: Callable[[], list[Packet]]) -> None:
        self._read = read
        self._packets: list[Packet] = []
        self._stopped = threading.Event()
        self.info = text_info(spec.needs.stream, min_gap_ns=0, origin=spec.target)

    def __enter__(self) -> Self:
        """Read everything. Raises SourceError, naming file and line."""
        self._packets = self._read()
        self._stopped.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self._packets = []

    def packets(self) -> Iterator[Packet | None]:
        """All lines, in order."""
        for packet in self._packets:
            if self._stopped.is_set():
                return
            yield packet

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()


class TextFile(RecordedText):
    """``text=FILE``: each line is ``SECONDS TEXT``, seconds since the recording began, then a space or tab, then at
    most 4 KiB of UTF-8. Blank lines and lines that start with ``#`` are skipped.
    """

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec, lambda: packets_of_lines(_content(Path(spec.target)), spec.target))


def packets_of_lines(content: bytes, origin: str) -> list[Packet]:
    """A file's lines as packets. Raises SourceError, naming the line: no time, time running backwards, too long, not
    UTF-8.
    """
    packets: list[Packet] = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or not match[2]:
            raise SourceError(f"{origin}: line {number} is not SECONDS TEXT, like 12.5 siren ahead; give it a time and a text")
        text = match[2].strip()
        if len(text) > MAX_TEXT_BYTES:
            raise SourceError(f"{origin}: line {number} has {len(text)} bytes of text, more than {MAX_TEXT_BYTES}; shorten it")
        try:
            text.decode("utf-8", errors="strict")
        except UnicodeDecodeError as error:
            raise SourceError(f"{origin}: line {number} is not UTF-8; save the file as UTF-8") from error
        seconds = float(match[1])
        if seconds > MAX_TIME_S:
            raise SourceError(
                f"{origin}: line {number} is at {seconds:g} s, more than a day; times count from the recording's start"
            )
        capture_ns = round(seconds * 1e9)
        if packets and capture_ns < packets[-1].capture_ns:
            raise SourceError(f"{origin}: line {number}: time runs backwards; sort the lines by time")
        packets.append(Packet(capture_ns=capture_ns, arrival_ns=capture_ns, chunks=(text,)))
    if not packets:
        raise SourceError(f"{origin}: has no line of SECONDS TEXT; add one")
    return packets


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SourceError(f"{path}: is larger than {MAX_FILE_BYTES} bytes; cut the file")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
