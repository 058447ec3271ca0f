"""Scenarios: folders that make the runtime do one job."""
