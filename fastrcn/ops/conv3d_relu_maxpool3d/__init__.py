"""3-D convolution with bias, ReLU and max-pooling, as one operator."""
