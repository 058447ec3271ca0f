"""A donkeycar tub's camera: the JPEG files as they are, on the grid of the car's loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pipeline.formats.decode import image_size
from pipeline.formats.donkeycar import record_times_ns, records_of_tub, tub_folder
from pipeline.sources.base import Encoding, Packet, SourceError, SourceSpec, StreamInfo

MAX_IMAGE_BYTES = 8 * 2**20


class DonkeycarCamera:
    """``donkeycar=TUB``: one JPEG a record, at option ``fps`` (20 Hz unless told). Entering checks every image's
    presence and size.
    """

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._fps = float(spec.options.get("fps", "20"))
        self._images: list[tuple[int, Path]] = []
        self._stopped = threading.Event()
        self.info = self._info(0, 0)

    def _info(self, width: int, height: int) -> StreamInfo:
        return StreamInfo(
            stream=self._spec.needs.stream,
            kind="camera",
            encoding=Encoding(codec="jpeg", width=width, height=height),
            period_ns=round(1e9 / self._fps),
            min_gap_ns=int(1e9 / self._fps),
            origin=self._spec.target,
        )

    def __enter__(self) -> Self:
        """Read the catalogs and the first image's size. Raises SourceError, naming file and line."""
        folder = tub_folder(Path(self._spec.target))
        records = records_of_tub(folder)
        times_ns = record_times_ns(records, self._fps).tolist()
        self._images = [(time_ns, folder / "images" / record.image) for time_ns, record in zip(times_ns, records, strict=True)]
        for _, image in self._images:
            if not image.is_file() or not 0 < image.stat().st_size <= MAX_IMAGE_BYTES:
                raise SourceError(f"{image}: is missing, empty or larger than {MAX_IMAGE_BYTES} bytes; copy the tub again")
        self.info = self._info(*_size_of_jpeg(self._images[0][1]))
        self._stopped.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self._images = []

    def packets(self) -> Iterator[Packet | None]:
        """One packet a record. Raises SourceError, naming the file, for what is no JPEG."""
        for time_ns, image in self._images:
            if self._stopped.is_set():
                return
            yield Packet(capture_ns=time_ns, arrival_ns=time_ns, chunks=(_jpeg(image),))

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()


def _jpeg(image: Path) -> bytes:
    try:
        with image.open("rb") as file:
            content = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{image}: cannot be read ({error.strerror or error}); copy the tub again") from error
    if not content.startswith(b"\xff\xd8") or len(content) > MAX_IMAGE_BYTES:
        raise SourceError(f"{image}: is no JPEG of at most {MAX_IMAGE_BYTES} bytes; copy the tub again")
    return content


def _size_of_jpeg(image: Path) -> tuple[int, int]:
    size = image_size(_jpeg(image))
    if size is None:
        raise SourceError(f"{image}: does not say its size; copy the tub again")
    return size
