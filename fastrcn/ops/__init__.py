"""Operators: one folder per operation, each with its PyTorch operator, plain form and fused forms."""
