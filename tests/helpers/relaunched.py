"""Triton kernels in the interpreter, launched again as compiled ones are: with addresses, all arguments in order."""

import torch


class _Compiled:
    """What a launch of a compiled kernel returns."""

    def __init__(self, kernel, tensors, calls):
        self.kernel, self.tensors, self.calls = kernel, tensors, calls

    def __getitem__(self, grid):
        def run(*arguments):
            self.calls.append(grid)
            names = self.kernel.arg_names
            assert len(arguments) == len(names)
            pairs = zip(names, arguments, strict=True)
            self.kernel[grid](*(self.tensors[a] if n.startswith("p_") else a for n, a in pairs))

        return run


def relaunched(kernel_of):
    """In place of a module's ``kernel_of``: (the same, whose launches return what compiled ones do; the grids of the
    later launches as they come; the tensors that these may be given, by address: those of the first launches, and what
    a test adds)."""
    calls: list[tuple] = []
    tensors: dict[int, torch.Tensor] = {}

    class Kernel:
        def __init__(self, *key):
            self.kernel = kernel_of(*key)

        def __getitem__(self, grid):
            def run(*arguments, **options):
                self.kernel[grid](*arguments, **options)
                tensors.update((a.data_ptr(), a) for a in arguments if isinstance(a, torch.Tensor))
                return _Compiled(self.kernel, tensors, calls)

            return run

    return Kernel, calls, tensors
