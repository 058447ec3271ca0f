"""Prints the public names of TensorRT's Python bindings as JSON, a class with its own. Run it with a Python that has them."""

import json
import sys

import tensorrt

names = {}
for name in dir(tensorrt):
    if not name.startswith("_"):
        value = getattr(tensorrt, name)
        names[name] = sorted(a for a in dir(value) if not a.startswith("_")) if isinstance(value, type) else []
json.dump({"version": tensorrt.__version__, "names": names}, sys.stdout)
