"""Speed and memory: ``python -m benchmarks``. Ratios of one run; nothing here decides whether a test passes."""
