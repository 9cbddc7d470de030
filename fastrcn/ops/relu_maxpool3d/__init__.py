"""Scale and shift, ReLU and 3-D max-pooling in one pass over a tensor, and back: the kernels that operators share."""
