"""Live devices: a camera through OpenCV (V4L2) and a microphone through PortAudio.

Both are read by a thread of their own (OpenCV's, and PortAudio's callback) that stamps at acquisition and hands
over through a bounded queue which drops the oldest. The thread is needed: a `grab()` may block for ten seconds on
a camera that is gone.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, Protocol, Self

from pipeline.sources.base import Encoding, Packet, SourceError, SourceLost, SourceSpec, StreamInfo

QUIET_S = 0.1
LOST_AFTER_S = 1.5
"""A device that says nothing for so long is gone."""

FIRST_SAMPLE_S = 5.0
FAILED_GRABS = 3
JPEG_QUALITY = 90


class Capture(Protocol):
    """What of OpenCV's VideoCapture is used."""

    def isOpened(self) -> bool:
        """Whether there is a device."""
        ...

    def grab(self) -> bool:
        """Take the next frame; False when that failed."""
        ...

    def retrieve(self) -> tuple[bool, Any]:
        """Decode the frame taken: uint8 ``[height, width, 3]``, BGR."""
        ...

    def get(self, prop: int) -> float:
        """A property of the device."""
        ...

    def release(self) -> None:
        """Give the device back."""
        ...


class Handover:
    """A bounded queue from a device's thread to `packets`. Full, it drops the oldest and counts that in
    ``overflows``.
    """

    def __init__(self, capacity: int) -> None:
        self._queue: queue.Queue[Packet | SourceLost | None] = queue.Queue(capacity)
        self.overflows = 0

    def put(self, item: Packet | SourceLost | None) -> None:
        """Never blocks; None wakes the reader."""
        while True:
            try:
                self._queue.put_nowait(item)
                return
            except queue.Full:
                try:
                    self._queue.get_nowait()
                    self.overflows += 1
                except queue.Empty:
                    continue

    def packets(self, stopped: threading.Event, gone: str) -> Iterator[Packet | None]:
        """Packets as they come; None after 100 ms without. Raises SourceLost when told, or when the device says
        nothing for too long.
        """
        silent_since = time.monotonic()
        patience_s = FIRST_SAMPLE_S
        while not stopped.is_set():
            try:
                item = self._queue.get(timeout=QUIET_S)
            except queue.Empty:
                if time.monotonic() - silent_since > patience_s:
                    raise SourceLost(f"{gone}: nothing came for {patience_s:g} s") from None
                yield None
                continue
            if isinstance(item, SourceLost):
                raise item
            if item is not None:
                silent_since, patience_s = time.monotonic(), LOST_AFTER_S
                yield item


class CameraDevice:
    """``camera=device:0`` or ``device:/dev/video0``.

    A frame's capture time is the return of `grab()` less option ``latency_ns`` (what the camera declares from
    light to driver). Packets are ``rgb8``; when the run is recorded, JPEG of quality 90, so that the encoders read
    what the log holds.
    """

    timing: Literal["media", "live"] = "live"

    def __init__(
        self,
        spec: SourceSpec,
        open_capture: Callable[[str], Capture] | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._spec = spec
        self._open_capture = open_capture or _open_video_capture
        self._now_ns = now_ns
        self._latency_ns = int(spec.options.get("latency_ns", "0"))
        self._codec = "jpeg" if spec.needs.recording else "rgb8"
        self._name = f"{spec.needs.stream}: camera {spec.target}"
        self._handover = Handover(4)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.info = self._info(0, 0, 0.0)

    @property
    def overflows(self) -> int:
        """Frames dropped because nobody took them in time."""
        return self._handover.overflows

    def _info(self, width: int, height: int, fps: float) -> StreamInfo:
        return StreamInfo(
            stream=self._spec.needs.stream,
            kind="camera",
            encoding=Encoding(codec=self._codec, width=width, height=height),
            period_ns=round(1e9 / (fps if 1 <= fps <= 1000 else 30.0)),
            min_gap_ns=0,
            origin=f"device:{self._spec.target}",
        )

    def __enter__(self) -> Self:
        """Open, and read one frame for its size. Raises SourceError when there is no such camera or it gives no
        frame.
        """
        import cv2

        capture = self._open_capture(self._spec.target)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f"{self._name} cannot be opened; plug it in, see ls /dev/video*, or leave it out "
                f"with {self._spec.needs.stream}=none"
            )
        grabbed, image = (capture.grab() and capture.retrieve()) or (False, None)
        if not grabbed or image is None:
            capture.release()
            raise SourceError(f"{self._name} gives no frame; close other programs that use it or plug it in again")
        height, width = image.shape[:2]
        self.info = self._info(width, height, float(capture.get(cv2.CAP_PROP_FPS)))
        self._stopped.clear()
        self._thread = threading.Thread(target=self._read, args=(capture,), name=f"camera-{self._spec.target}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout=1.0)  # blocked in a dead camera's grab() it ends on its own, and releases then
            self._thread = None

    def packets(self) -> Iterator[Packet | None]:
        """Frames as they come. Raises SourceLost when the camera fails, is unplugged or falls silent."""
        yield from self._handover.packets(self._stopped, self._name)

    def stop(self) -> None:
        """`packets` returns at once."""
        self._stopped.set()
        self._handover.put(None)

    def _read(self, capture: Capture) -> None:
        failed = 0
        try:
            while not self._stopped.is_set() and failed < FAILED_GRABS:
                if not capture.grab():
                    failed += 1
                    continue
                stamp_ns = self._now_ns()
                retrieved, image_bgr = capture.retrieve()
                packet = self._packet(stamp_ns, image_bgr) if retrieved else None
                failed = failed + 1 if packet is None else 0
                if packet is not None:
                    self._handover.put(packet)
            if failed:
                self._handover.put(SourceLost(f"{self._name}: {failed} frames in a row failed; it was unplugged or broke down"))
        except Exception as error:  # a driver's own exceptions: this thread's edge
            self._handover.put(SourceLost(f"{self._name}: {type(error).__name__}: {error}"))
        finally:
            capture.release()

    def _packet(self, stamp_ns: int, image_bgr: Any) -> Packet | None:
        import cv2

        encoding = self.info.encoding
        if image_bgr is None or image_bgr.shape != (encoding.height, encoding.width, 3):
            return None
        if self._codec == "jpeg":
            encoded, jpeg = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if not encoded:
                return None
            chunk = jpeg.tobytes()
        else:
            chunk = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB).tobytes()
        return Packet(capture_ns=stamp_ns - self._latency_ns, arrival_ns=stamp_ns, chunks=(chunk,))


def _open_video_capture(target: str) -> Capture:
    import cv2

    if target.isascii() and target.isdigit():
        return cv2.VideoCapture(int(target))
    return cv2.VideoCapture(target)


class AudioStamper:
    """When a block's last sample was taken, on the host's clock. Pure.

    PortAudio says how long ago the block's first sample was taken (``currentTime - inputBufferAdcTime``). That
    jitters by the scheduler's whims, so stamps follow the count of samples and are drawn to what PortAudio says by
    a sixteenth of the difference a block. Where it says nothing (zero) or jumps, the count alone serves. A jump
    that stays for half a second is followed, a fifth of a block a block: samples counted as gapless stay so. Only
    where PortAudio reports lost samples do stamps step.

    At the start it may be wrong for long: ALSA's pulse plugin, measured, reports 250 to 350 ms for the first half
    second and then 45 ms, while not one sample is missing. `settles` says when to begin.
    """

    PULL = 16
    JUMP_NS = 20_000_000
    FOLLOW_AFTER_NS = 500_000_000
    MOST_STEP = 5
    MAX_AGE_S = 10.0
    YOUNG_BLOCKS = 2
    STEADY_S = 0.01
    SETTLE_FOR_NS = 2_000_000_000

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._expected_ns = 0
        self._away_for_ns = 0
        self._settling_ns = 0
        self._last_age_s = -math.inf
        self._is_settled = False
        self.fallbacks = 0

    def settles(self, *, current_s: float, adc_s: float, samples: int) -> bool:
        """Whether stamps can begin.

        Once two blocks in a row are said to be equally old, and at most two blocks old; where PortAudio says
        nothing; or after 2 s of sound, whatever is said.
        """
        self._settling_ns += samples * 1_000_000_000 // self._rate_hz
        age_s = current_s - adc_s
        is_steady = abs(age_s - self._last_age_s) <= self.STEADY_S and age_s * self._rate_hz <= self.YOUNG_BLOCKS * samples
        self._last_age_s = age_s
        if is_steady or adc_s <= 0 or current_s <= 0 or self._settling_ns >= self.SETTLE_FOR_NS:
            self._is_settled = True
        return self._is_settled

    def capture_ns(self, *, now_ns: int, current_s: float, adc_s: float, samples: int, lost: bool) -> int:
        """The last sample's time for a block of ``samples`` that arrived at ``now_ns``; never after it, and always rising."""
        length_ns = samples * 1_000_000_000 // self._rate_hz
        age_s = current_s - adc_s
        says = adc_s > 0 and current_s > 0 and 0 <= age_s <= self.MAX_AGE_S
        measured_ns = now_ns - round(age_s * 1e9) if says else None
        first_ns = self._first_ns(measured_ns, now_ns - length_ns, length_ns, lost)
        last_ns = min(first_ns + (samples - 1) * 1_000_000_000 // self._rate_hz, now_ns)
        self._expected_ns = last_ns + 1_000_000_000 // self._rate_hz
        return last_ns

    def _first_ns(self, measured_ns: int | None, received_ns: int, length_ns: int, lost: bool) -> int:
        expected_ns = self._expected_ns
        if expected_ns == 0:
            return measured_ns if measured_ns is not None else received_ns
        if lost:
            self._away_for_ns = 0
            return max(received_ns if measured_ns is None else measured_ns, expected_ns)
        if measured_ns is None:
            self.fallbacks += 1
            return expected_ns
        away_ns = measured_ns - expected_ns
        most_ns = length_ns // self.MOST_STEP  # small against a window's gap, and stamps always rise
        if abs(away_ns) <= self.JUMP_NS:
            self._away_for_ns = 0
            return expected_ns + max(-most_ns, min(most_ns, away_ns // self.PULL))
        self._away_for_ns += length_ns
        if self._away_for_ns > self.FOLLOW_AFTER_NS:
            return expected_ns + max(-most_ns, min(most_ns, away_ns))
        self.fallbacks += 1
        return expected_ns


class MicrophoneDevice:
    """``microphone=device:NAME`` (or its number, as PortAudio lists them): int16 mono at the scenario's rate, in
    blocks of ``block_ns``.

    ``overflows`` counts blocks that nobody took in time, ``lost_blocks`` those before which PortAudio lost samples,
    ``unsettled_blocks`` those at the start that could not be stamped yet. Option ``latency_ns`` is taken off every
    capture time.
    """

    timing: Literal["media", "live"] = "live"

    def __init__(self, spec: SourceSpec, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._spec = spec
        self._now_ns = now_ns
        rate_hz = spec.needs.sample_rate_hz
        self._samples = max(1, spec.needs.block_ns * rate_hz // 1_000_000_000)
        self._latency_ns = int(spec.options.get("latency_ns", "0"))
        self._name = f"{spec.needs.stream}: microphone {spec.target!r}"
        self._stamper = AudioStamper(rate_hz)
        self._handover = Handover(64)
        self._stopped = threading.Event()
        self._stream: Any = None
        self.lost_blocks = 0
        self.unsettled_blocks = 0
        self.info = StreamInfo(
            stream=spec.needs.stream,
            kind="microphone",
            encoding=Encoding(codec="pcm-s16", sample_rate_hz=rate_hz),
            period_ns=self._samples * 1_000_000_000 // rate_hz,
            min_gap_ns=0,
            origin=f"device:{spec.target}",
        )

    @property
    def overflows(self) -> int:
        """Blocks dropped because nobody took them in time."""
        return self._handover.overflows

    @property
    def stamp_fallbacks(self) -> int:
        """Blocks stamped by counting samples, because PortAudio's time was zero or jumped."""
        return self._stamper.fallbacks

    def __enter__(self) -> Self:
        """Open and start. Raises SourceError, with the devices there are, when there is no such microphone or it
        refuses the rate.
        """
        sounddevice = _sounddevice(self._name)
        target = self._spec.target
        device = int(target) if target.isascii() and target.isdigit() else target
        rate_hz = self._spec.needs.sample_rate_hz
        try:
            name = str(sounddevice.query_devices(device, "input")["name"])
            self._stream = sounddevice.RawInputStream(
                samplerate=rate_hz,
                blocksize=self._samples,
                device=device,
                channels=1,
                dtype="int16",
                latency="low",
                callback=self._on_block,
                finished_callback=self._on_finished,
            )
            self._stream.start()
        except (ValueError, sounddevice.PortAudioError) as error:
            self._close()
            names = [str(each["name"]) for each in sounddevice.query_devices() if each["max_input_channels"] > 0]
            reason = str(error).splitlines()[0][:160]
            raise SourceError(
                f"{self._name} cannot record {rate_hz} Hz mono ({reason}); the inputs here: "
                f"{', '.join(names) or 'none'}; "
                f"choose one, or leave it out with {self._spec.needs.stream}=none"
            ) from error
        self.info = replace(self.info, origin=f"device:{name}")
        self._stopped.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._close()

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        # PortAudio can hang in closing a device that is gone; that must not take the process along.
        closer = threading.Thread(target=_abort_and_close, args=(stream,), name="microphone-close", daemon=True)
        closer.start()
        closer.join(timeout=1.0)

    def packets(self) -> Iterator[Packet | None]:
        """Blocks as they come. Raises SourceLost when the device fails, is unplugged or falls silent (blocks of
        silence are no silence).
        """
        yield from self._handover.packets(self._stopped, self._name)

    def stop(self) -> None:
        """`packets` returns at once."""
        self._stopped.set()
        self._handover.put(None)

    def _on_block(self, data: Any, frames: int, when: Any, status: Any) -> None:
        now_ns = self._now_ns()
        lost = bool(status.input_overflow)
        self.lost_blocks += lost
        current_s, adc_s = when.currentTime, when.inputBufferAdcTime
        if not self._stamper.settles(current_s=current_s, adc_s=adc_s, samples=frames):
            self.unsettled_blocks += 1
            return
        capture_ns = self._stamper.capture_ns(now_ns=now_ns, current_s=current_s, adc_s=adc_s, samples=frames, lost=lost)
        span_ns = frames * 1_000_000_000 // self._spec.needs.sample_rate_hz
        self._handover.put(
            Packet(capture_ns=capture_ns - self._latency_ns, arrival_ns=now_ns, span_ns=span_ns, chunks=(bytes(data),))
        )

    def _on_finished(self) -> None:
        if not self._stopped.is_set():
            self._handover.put(SourceLost(f"{self._name}: PortAudio ended the recording; it was unplugged or its server stopped"))


def _sounddevice(name: str) -> Any:
    try:
        import sounddevice
    except OSError as error:
        raise SourceError(
            f"{name} needs the PortAudio library ({error}); install it (Debian, Ubuntu: apt install libportaudio2)"
        ) from error
    return sounddevice


def _abort_and_close(stream: Any) -> None:
    with contextlib.suppress(Exception):
        stream.abort(ignore_errors=True)
    with contextlib.suppress(Exception):
        stream.close(ignore_errors=True)
