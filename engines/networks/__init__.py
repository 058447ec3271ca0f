"""Torch modules, one a file. Imported only by training and export; the runtime runs the ONNX that comes out."""
