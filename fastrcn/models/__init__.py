"""Models of the documents, one paper per file, also by name: ``create``, ``list_models``, ``describe``."""

from fastrcn.models.encoder_forecaster import EncoderForecaster
from fastrcn.models.registry import create, describe, list_models
from fastrcn.models.vgg import VGG16

__all__ = ["VGG16", "EncoderForecaster", "create", "describe", "list_models"]
