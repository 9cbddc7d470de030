"""What rules that choose a kernel or a backend by shape take for granted of a GPU, by bytes of the data type."""

PROCESSORS = 132
"""Of the GPU that the numbers below are of, an H200."""

SECONDS_PER_LAUNCH = 2e-6
"""What a kernel takes to start and to end. An estimate."""

OPERATIONS_PER_BYTE = {2: 67, 4: 34}
"""Operations of the library's convolution in the time in which a byte is copied. On an H200 cuDNN's reached
290 TFLOP/s in float16, half of that in tf32, and large copies 4.3 TB/s."""

OPERATIONS_PER_LAUNCH = {2: 5.8e8, 4: 2.9e8}
"""The same in ``SECONDS_PER_LAUNCH``."""
