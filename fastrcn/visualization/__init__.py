"""What a video network has learned: its first filters as clips, class-score gradients, clips that maximise a score."""

from fastrcn.visualization.filters import filter_clips
from fastrcn.visualization.gradients import class_score_gradients, contribution, saliency
from fastrcn.visualization.maximize import (
    FAST,
    SLOW,
    Maximized,
    Regularizer,
    bounded,
    energy,
    maximize,
    total_variation,
)

__all__ = [
    "FAST",
    "SLOW",
    "Maximized",
    "Regularizer",
    "bounded",
    "class_score_gradients",
    "contribution",
    "energy",
    "filter_clips",
    "maximize",
    "saliency",
    "total_variation",
]
