"""Evaluation of a scenario: what ``chiasm evaluate`` calls."""

from engines.training.evaluating.scenario import evaluate

__all__ = ["evaluate"]
