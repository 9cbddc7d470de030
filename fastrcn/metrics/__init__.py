"""How good predictions are, as the papers measure it."""

from fastrcn.metrics.captions import bleu, cider, cider_d, meteor
from fastrcn.metrics.classification import Predictions, hit_at_k, mean_class_accuracy, top_k_accuracy
from fastrcn.metrics.detection import frame_detection_ap
from fastrcn.metrics.forecasting import (
    Events,
    correlation,
    count_events,
    frame_mae,
    frame_mse,
    rain_mse,
    rain_rate,
)
from fastrcn.metrics.multi_label import GlobalAveragePrecision, global_average_precision, multi_label_map
from fastrcn.metrics.ranking import average_precision
from fastrcn.metrics.temporal_detection import temporal_detection_ap

__all__ = [
    "Events",
    "GlobalAveragePrecision",
    "Predictions",
    "average_precision",
    "bleu",
    "cider",
    "cider_d",
    "correlation",
    "count_events",
    "frame_detection_ap",
    "frame_mae",
    "frame_mse",
    "global_average_precision",
    "hit_at_k",
    "mean_class_accuracy",
    "meteor",
    "multi_label_map",
    "rain_mse",
    "rain_rate",
    "temporal_detection_ap",
    "top_k_accuracy",
]
