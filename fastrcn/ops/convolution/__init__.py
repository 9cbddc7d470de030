"""Parts of a convolution that operators share: its weight packed for the compiled kernel, and its weight gradient."""
