"""What rules that choose a kernel by shape take for granted of a GPU, by bytes of the data type."""

OPERATIONS_PER_BYTE = {2: 67, 4: 34}
"""Operations of the library's convolution in the time in which a byte is copied. On an H200 cuDNN's reached
290 TFLOP/s in float16, half of that in tf32, and large copies 4.3 TB/s."""

OPERATIONS_PER_LAUNCH = {2: 5.8e8, 4: 2.9e8}
"""The same in two microseconds, which a kernel takes to start and to end. An estimate."""
