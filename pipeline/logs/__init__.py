"""Recorded runs as MCAP files: writing, reading, comparing, summing up, exporting."""
