"""From a cell's equations to its schedule, its derivatives and its code.

trace -> schedule -> differentiate -> emit_torch, emit_cpp. Needs SymPy only: the build runs it without PyTorch.
"""
