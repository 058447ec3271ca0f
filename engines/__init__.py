"""Networks, from definition to compiled engine. Arrays in, arrays out."""

from engines.manifest import EngineError, HeadSpec, Manifest, load_manifest
from engines.privacy import silence_reporting
from engines.registry import open_engine

__all__ = ["EngineError", "HeadSpec", "Manifest", "load_manifest", "open_engine"]

silence_reporting()
