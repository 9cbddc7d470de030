"""The phases of a step as one Triton kernel that walks over time.

Each phase is the function that is its own kernel elsewhere. All programs meet after each: what one of them has written,
in this step or in the one before, any other may read in the next phase. Phases may have tiles of different sizes; a
program beyond the last tile of a phase only waits for the others. That condition also keeps the compiler from working
out a tile's addresses before the loop, where they would take registers from start to end.
"""

from functools import cache

from fastrcn.compiler.emit_triton import jitted, kernel_of
from fastrcn.compiler.phase import Walk


def walk_source(walk: Walk) -> str:
    """Source of the kernel."""
    step, count, programs = [], len(walk.phases), "tl.num_programs(0) * tl.num_programs(1)"
    for k, phase in enumerate(walk.phases):
        call = f"phase_{k}({', '.join(f'{name}_of_{k}' for name in (*phase.arguments, *phase.constants))})"
        tiles_m, tiles_c = (
            f"({size}_of_{k} + {block}_of_{k} - 1) // {block}_of_{k}"
            for size, block in (("n_pixels", "BLOCK_M"), ("C", "BLOCK_C"))
        )
        step += [
            f"if tl.program_id(0) < ({tiles_m}) * ({tiles_c}):",
            f"    {call}",
            f"grid_barrier(p_counter, ({count} * i_turn + {k + 1}) * {programs})",
        ]
    step += [f"{name} += {by}" for name, by in walk.moves]
    lines = [
        f"def {walk.name}(",
        f"    {', '.join(walk.arguments)},",
        f"    {', '.join(f'{name}: tl.constexpr' for name in walk.constants)},",
        "):",
        "    for i_turn in range(0, n_times):",
        *(f"        {line}" for line in step),
    ]
    return "\n".join(lines) + "\n"


@cache
def walk_kernel_of(fingerprint: str, walk: Walk):
    """The walk as a function that Triton compiles, made once per process."""
    from fastrcn.compiler.triton_functions import grid_barrier

    functions = {f"phase_{k}": kernel_of(fingerprint, phase) for k, phase in enumerate(walk.phases)}
    return jitted(fingerprint, walk, walk_source(walk), functions | {"grid_barrier": grid_barrier})
