"""`inspect --explain TOPIC`: half a screen on one idea, true for the model at hand, with its own numbers."""

from clipft.report.explain.topics import TOPICS, explain, print_explanation

__all__ = ["TOPICS", "explain", "print_explanation"]
