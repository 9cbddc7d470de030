"""Batch normalisation with ReLU and 3-D max-pooling, as one operator."""
