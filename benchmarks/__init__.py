"""Measurements that keep their raw samples."""
