"""The programs of Triton kernels that a call makes."""

from fastrcn.ops.conv_recurrent import triton_program


def note_programs(patch):
    """A list that every program from now on joins, until ``patch`` is undone."""
    programs = []

    class Noted(triton_program.TritonProgram):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            programs.append(self)

    patch.setattr(triton_program, "Program", Noted)
    return programs
