"""What bytes mean: codecs and container formats, used by sources and importers."""
