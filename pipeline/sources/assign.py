"""Which source feeds which stream: parses ``--source`` values into `SourceSpec`s.

A value is ``STREAM=URI`` or ``BUNDLE=PATH``; the name ends at the first ``=``. A URI is a path, ``device:NAME``,
``udp:[HOST:]PORT``, ``log:PATH``, ``wfdb:RECORD`` or ``none``, and may end in ``?key=value&key=value``. Only what
follows the last ``?`` counts as options, and only if all of it reads as ``key=value``; so ``what?.mp4`` is a path.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from pipeline.sources.base import SourceError, SourceSpec, StreamKind, StreamNeeds
from pipeline.sources.composed import composed_notice
from pipeline.sources.opening import duration_of, open_source

__all__ = [
    "NOT_VALIDATED",
    "Assigned",
    "assign_sources",
    "duration_of",
    "open_source",
    "parse_duration_ns",
    "stream_of_kind",
]

NOT_VALIDATED = "networks trained in simulation, not validated on this source"
"""Said of every stream whose source is not a simulation."""

MAX_OFFSET_NS = 86_400_000_000_000
MAX_ASSIGNMENT_CHARS = 8192

_DURATION = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,18})?)(ns|us|ms|s)", re.ASCII)
_UNIT_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*=[^=&?]*", re.ASCII)
_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_GOPRO_SUFFIXES = frozenset({".mp4", ".mov", ".360", ".lrv"})

_RECORDED_SCHEMES = frozenset(
    {
        "video",
        "images",
        "audio",
        "gopro-telemetry",
        "csv",
        "comma2k19-telemetry",
        "donkeycar-camera",
        "donkeycar-telemetry",
        "wfdb-telemetry",
        "wfdb-text",
    }
    | {"text", "log"}
)
_FPS_SCHEMES = frozenset({"images", "donkeycar-camera", "donkeycar-telemetry"})
_LATENCY_SCHEMES = frozenset({"camera-device", "microphone-device"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """The result: a spec for each stream that has a source, and what the user must be told (one line each)."""

    specs: dict[str, SourceSpec]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """One ``--source`` value, taken apart."""

    name: str
    uri: str
    options: dict[str, str] = field(default_factory=dict)


def assign_sources(needs: Mapping[str, StreamNeeds], assignments: Iterable[str], defaults: Mapping[str, SourceSpec]) -> Assigned:
    """The sources of a run.

    ``needs``: what the scenario asks, by stream. ``assignments``: the ``--source`` values, in any order.
    ``defaults``: the scenario's own sources. Without assignments the defaults serve; with nothing but
    ``STREAM=none`` they serve less those streams; otherwise streams without an assignment are left out. A bundle
    gives all the streams that it has, and ``STREAM=URI`` beside it overrides. Raises SourceError (one line, with
    the fix).
    """
    values = [_take_apart(text) for text in assignments]
    if not values:
        return Assigned(specs=dict(defaults))
    seen: set[str] = set()
    for value in values:
        _check_name(value.name, needs, seen)
    direct = [value for value in values if value.name in needs]
    left_out = {value.name for value in direct if value.uri == "none"}
    if len(left_out) == len(values):
        return _finish({name: spec for name, spec in defaults.items() if name not in left_out}, [], set())

    named = {value.name for value in direct}
    specs: dict[str, SourceSpec] = {}
    given_by: dict[str, str] = {}
    recordings: dict[str, str] = {}
    notices: list[str] = []
    for value in values:
        if value.name in needs:
            continue
        bundle, said = _bundle_specs(value, needs)
        notices += said
        for stream, spec in bundle.items():
            if stream in named:
                continue
            if stream in given_by:
                raise SourceError(
                    f"--source: {stream} comes from both {given_by[stream]} and {value.name}; "
                    f"add {stream}=URI to choose, or {stream}=none"
                )
            specs[stream], given_by[stream], recordings[stream] = spec, value.name, value.uri
    for value in direct:
        if value.name not in left_out:
            spec = specs[value.name] = _stream_spec(value, needs[value.name])
            if spec.scheme in _RECORDED_SCHEMES:
                recordings[value.name] = spec.target
    ordered = {stream: specs[stream] for stream in needs if stream in specs}
    if composed := composed_notice({stream: recordings[stream] for stream in ordered if stream in recordings}):
        notices.append(composed)
    return _finish(ordered, notices, set(ordered))


def parse_duration_ns(text: str, name: str) -> int:
    """``-120ms``, ``1.5s``, ``40us``, ``7ns`` to ns; ``name`` is what the error calls it. Raises SourceError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise SourceError(f"{name}: {text!r} is not a time; write a number and its unit, like -120ms, 1.5s, 40us or 7ns")
    duration_ns = round(Decimal(match[1]) * _UNIT_NS[match[2]])
    if abs(duration_ns) > MAX_OFFSET_NS:
        raise SourceError(f"{name}: {text!r} is more than a day; write a shorter time")
    return duration_ns


def stream_of_kind(needs: Mapping[str, StreamNeeds], kind: StreamKind) -> str | None:
    """The stream that a bundle's only recording of this kind feeds: the one named like the kind, or the first of the
    kind.
    """
    if kind in needs:
        return kind
    return next((stream for stream, need in needs.items() if need.kind == kind), None)


def _take_apart(text: str) -> _Value:
    if len(text) > MAX_ASSIGNMENT_CHARS:
        raise SourceError(f"--source: a value of {len(text)} characters is too long; at most {MAX_ASSIGNMENT_CHARS}")
    name, equals, uri = text.partition("=")
    name = name.strip()
    if not equals or not name or not uri or "\0" in text or "\n" in text:
        raise SourceError(f"--source {text!r}: write STREAM=URI or BUNDLE=PATH, like camera=drive.mp4 or gopro=GX010042.MP4")
    path, mark, tail = uri.rpartition("?")
    pairs = tail.split("&")
    if not mark or not path or os.path.exists(uri) or not all(_OPTION.fullmatch(pair) for pair in pairs):
        return _Value(name=name, uri=uri)
    options: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in options:
            raise SourceError(f"--source {text!r}: option {key} is given twice; keep one")
        options[key] = value
    return _Value(name=name, uri=path, options=options)


def _check_name(name: str, needs: Mapping[str, StreamNeeds], seen: set[str]) -> None:
    if name in seen:
        raise SourceError(f"--source: {name} is given twice; keep one")
    seen.add(name)
    if name in needs or name in BUNDLES:
        return
    near = difflib.get_close_matches(name, [*needs, *BUNDLES], n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise SourceError(
        f"--source: the scenario has no stream {name!r} and there is no such bundle{hint} "
        f"Streams: {', '.join(needs)}. Bundles: {', '.join(BUNDLES)}"
    )


def _finish(specs: dict[str, SourceSpec], notices: list[str], real: set[str]) -> Assigned:
    if not specs:
        raise SourceError("--source: every stream is left out; give at least one stream a source, like camera=FILE")
    # A log says itself whether it is simulated, once it is open; a default is the scenario's own affair.
    unproven = [stream for stream in specs if stream in real and specs[stream].scheme != "log"]
    if unproven:
        notices = [*notices, f"{', '.join(unproven)}: {NOT_VALIDATED}"]
    return Assigned(specs=specs, notices=tuple(notices))


# From a URI to a spec ------------------------------------------------------------------------------------------------


def _stream_spec(value: _Value, need: StreamNeeds) -> SourceSpec:
    scheme, target = _scheme_and_target(value, need)
    return _with_options(SourceSpec(needs=need, scheme=scheme, target=target), value)


def _scheme_and_target(value: _Value, need: StreamNeeds) -> tuple[str, str]:
    prefix, colon, rest = value.uri.partition(":")
    if colon and prefix == "log":
        return "log", str(_existing(value, rest))
    if colon and prefix == "wfdb":
        if need.kind not in ("telemetry", "text"):
            raise SourceError(f"--source {value.name}: a WFDB record cannot feed a {need.kind} stream; use telemetry or text")
        return f"wfdb-{need.kind}", str(_wfdb_header(value, rest))
    if colon and prefix == "device":
        if need.kind not in ("camera", "microphone"):
            raise SourceError(f"--source {value.name}: a {need.kind} stream has no devices; use udp:PORT or a file")
        if not rest:
            raise SourceError(f"--source {value.name}: device: needs a number or name, like device:0")
        return f"{need.kind}-device", rest
    if colon and prefix == "udp":
        if need.kind not in ("telemetry", "text"):
            raise SourceError(f"--source {value.name}: a {need.kind} stream cannot come over udp; use device:0 or a file")
        return f"udp-{need.kind}", _udp_target(value.name, rest)
    return _file_scheme(value, need, _existing(value, value.uri))


def _udp_target(name: str, text: str) -> str:
    host, _, port = text.rpartition(":")
    host = host or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535 or any(c.isspace() for c in host):
        raise SourceError(f"--source {name}: udp:{text} is not udp:PORT or udp:HOST:PORT with a port of 1 to 65535")
    return f"{host}:{int(port)}"


def _existing(value: _Value, text: str) -> Path:
    path = Path(os.path.expanduser(text))  # unlike Path.expanduser, leaves ~nobody alone
    if not text or not os.path.exists(path):
        raise SourceError(f"--source {value.name}: no file or folder {text!r}; check the path (looked in {os.getcwd()})")
    if not path.is_file() and not path.is_dir():
        raise SourceError(f"--source {value.name}: {text!r} is neither a file nor a folder; give a recording")
    return path


def _wfdb_header(value: _Value, record: str) -> Path:
    from pipeline.formats.wfdb_header import header_path

    try:
        return header_path(record)
    except SourceError as error:
        raise SourceError(f"--source {value.name}: {error}") from error


def _file_scheme(value: _Value, need: StreamNeeds, path: Path) -> tuple[str, str]:
    suffix = path.suffix.lower()
    is_folder = path.is_dir()
    scheme = ""
    fix = "give a file"
    if suffix == ".mcap" and not is_folder:
        scheme = "log"
    elif need.kind == "camera":
        scheme = "images" if is_folder else "" if suffix in _IMAGE_SUFFIXES else "video"
        fix = "one image is no stream: give its folder or a video file"
    elif need.kind == "microphone":
        scheme, fix = "" if is_folder else "audio", "give a sound or video file"
    elif need.kind == "text":
        scheme = "" if is_folder else "wfdb-text" if suffix == ".hea" else "text"
        fix = "give a file with lines of SECONDS TEXT"
    elif suffix in _GOPRO_SUFFIXES:
        scheme = "gopro-telemetry"
    elif suffix == ".hea":
        scheme = "wfdb-telemetry"
    elif is_folder:
        scheme = "comma2k19-telemetry"
    elif suffix in (".csv", ".txt"):
        scheme = "csv"
    else:
        fix = "give a .csv file, a GoPro .mp4, a WFDB .hea or a comma2k19 folder"
    if not scheme:
        raise SourceError(f"--source {value.name}: {str(path)!r} cannot feed a {need.kind} stream; {fix}")
    return scheme, str(path)


def _with_options(spec: SourceSpec, value: _Value) -> SourceSpec:
    stream = value.name
    allowed = ["offset"]
    allowed += ["loop"] if spec.scheme in _RECORDED_SCHEMES else []
    allowed += ["fps"] if spec.scheme in _FPS_SCHEMES else []
    allowed += ["latency"] if spec.scheme in _LATENCY_SCHEMES else []
    _refuse_unknown(value, allowed)
    kept = dict(spec.options)
    if "fps" in value.options:
        kept["fps"] = repr(_fps(stream, value.options["fps"]))
    if "latency" in value.options:
        kept["latency_ns"] = str(parse_duration_ns(value.options["latency"], f"--source {stream}: latency"))
    spec = replace(spec, offset_ns=_offset_ns(value), options=kept)
    return replace(spec, loop_period_ns=duration_of(spec)) if _is_looped(value) else spec


def _refuse_unknown(value: _Value, allowed: list[str]) -> None:
    for key in value.options:
        if key not in allowed:
            raise SourceError(f"--source {value.name}: {value.uri!r} has no option {key!r}; it takes {', '.join(allowed)}")


def _offset_ns(value: _Value) -> int:
    return parse_duration_ns(value.options["offset"], f"--source {value.name}: offset") if "offset" in value.options else 0


def _is_looped(value: _Value) -> bool:
    text = value.options.get("loop", "false").lower()
    if text not in ("true", "false"):
        raise SourceError(f"--source {value.name}: loop={text!r} is neither true nor false")
    return text == "true"


def _fps(stream: str, text: str) -> float:
    if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", text, re.ASCII) and 0.1 <= float(text) <= 1000:
        return float(text)
    raise SourceError(f"--source {stream}: fps={text!r} is not a number of frames a second from 0.1 to 1000")


# Bundles -------------------------------------------------------------------------------------------------------------

_BundleSpecs = tuple[dict[str, SourceSpec], list[str]]


def _gopro(value: _Value, needs: Mapping[str, StreamNeeds], path: Path) -> _BundleSpecs:
    from pipeline.sources.gopro import gopro_specs

    return dict(gopro_specs(str(path), dict(needs))), []


def _comma2k19(value: _Value, needs: Mapping[str, StreamNeeds], path: Path) -> _BundleSpecs:
    from pipeline.formats.comma2k19 import comma2k19_specs

    return comma2k19_specs(path, needs), []


def _donkeycar(value: _Value, needs: Mapping[str, StreamNeeds], path: Path) -> _BundleSpecs:
    from pipeline.formats.donkeycar import donkeycar_specs

    fps = _fps(value.name, value.options["fps"]) if "fps" in value.options else 20.0
    return donkeycar_specs(path, needs, fps=fps)


def _wfdb(value: _Value, needs: Mapping[str, StreamNeeds], path: Path) -> _BundleSpecs:
    from pipeline.sources.wfdb import wfdb_specs

    return wfdb_specs(str(path), needs)


BUNDLES: dict[str, Callable[[_Value, Mapping[str, StreamNeeds], Path], _BundleSpecs]] = {
    "gopro": _gopro,
    "comma2k19": _comma2k19,
    "donkeycar": _donkeycar,
    "wfdb": _wfdb,
}
"""One recording that feeds several streams, by the name it has in ``--source``."""


def _bundle_specs(value: _Value, needs: Mapping[str, StreamNeeds]) -> _BundleSpecs:
    _refuse_unknown(value, ["offset", "loop", *(["fps"] if value.name == "donkeycar" else [])])
    path = _wfdb_header(value, value.uri) if value.name == "wfdb" else _existing(value, value.uri)
    specs, notices = BUNDLES[value.name](value, needs, path)
    if not specs:
        raise SourceError(f"--source {value.name}: {str(path)!r} has nothing for the streams {', '.join(needs)}; name another")
    offset_ns = _offset_ns(value)
    # One period for all streams of the bundle, so that they stay together on every pass.
    period_ns = max(duration_of(spec) for spec in specs.values()) if _is_looped(value) else 0
    moved = {
        stream: replace(spec, offset_ns=spec.offset_ns + offset_ns, loop_period_ns=period_ns) for stream, spec in specs.items()
    }
    return moved, notices
