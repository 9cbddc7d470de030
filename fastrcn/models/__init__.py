"""Models of the documents, one paper per file."""

from fastrcn.models.encoder_forecaster import EncoderForecaster

__all__ = ["EncoderForecaster"]
