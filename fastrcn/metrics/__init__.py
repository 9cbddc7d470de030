"""How good predictions are, as the papers measure it."""

from fastrcn.metrics.temporal_detection import average_precision, temporal_detection_ap

__all__ = ["average_precision", "temporal_detection_ap"]
