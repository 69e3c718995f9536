"""`inspect --explain TOPIC`: half a screen on one idea, true for the model at hand, with its own numbers."""

from clipft.report.explain.topics import explain, print_explanation

__all__ = ["explain", "print_explanation"]
