"""A phase as a Triton kernel: recurrent convolutions as implicit matrix products, and the stage as their epilogue.

A program owns BLOCK_M pixels and BLOCK_C channels of the state, in *every* slot that the phase's convolutions add to:
the gates of a channel meet in registers, where the stage needs them. The slots' accumulators share each loaded
tile of the source.
"""

import hashlib
import linecache
from functools import cache
from math import prod
from typing import NamedTuple

from fastrcn.compiler.emit import Printer
from fastrcn.compiler.phase import Phase, Walk
from fastrcn.compiler.signature import Arg


class _BlockPrinter(Printer):
    """Every symbol is a block, so that no name of a cell can be one of the kernel's own."""

    def _print_Symbol(self, expr):
        return f"b_{expr.name}"


_PRINTER = _BlockPrinter({name: name for name in ("sigmoid", "tanh", "relu", "exp", "positive")})


class _Axis(NamedTuple):
    """One axis of the maps: the names, in a kernel, of a pixel's place on it, of where its first tap lies in the
    source, of a tap's distance from the first, and of the source's size."""

    name: str
    corner: str
    offset: str
    extent: str


_AXES = (
    _Axis("z", "front", "i_back", "n_frames"),
    _Axis("y", "top", "i_down", "n_rows"),
    _Axis("x", "left", "i_right", "n_columns"),
)


def phase_source(phase: Phase) -> str:
    """Source of the kernel."""
    lines = [f"def {phase.name}("]
    lines += [f"    {', '.join(phase.arguments)},", f"    {', '.join(f'{n}: tl.constexpr' for n in phase.constants)},"]
    lines += ["):"]
    body = []
    for j, product in enumerate(phase.products):
        body += _product(phase, j, product)
    body += _apart(phase)
    for part in range(phase.parts):
        body += [
            f"i_c = i_tile_c * BLOCK_C + {part} * WIDTH + tl.arange(0, WIDTH)",
            "i_channel = i_c[None, :]",
            "in_channels = i_channel < C",
            "mask = inside[:, None] & in_channels",
            *(f"acc_{n} = acc_{n}_{part}" for n in range(len(phase.accumulators))),
        ]
        body += _complete(phase)
        if phase.signature is not None:
            body += _stage(phase)
    return "\n".join(lines + ["    " + line for line in [*_tile(phase), *_accumulators(phase), *body]]) + "\n"


def _tile(phase):
    lines = _direction(phase) if phase.both else []
    lines += [
        "n_tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C",
        "i_tile_m = tl.program_id(0) // n_tiles_c",
        "i_tile_c = tl.program_id(0) % n_tiles_c",
        "i_m = i_tile_m * BLOCK_M + tl.arange(0, BLOCK_M)",
        "inside = i_m < n_pixels",
        f"i_b = i_m // ({' * '.join(phase.size)})",
        "i_row = i_m.to(tl.int64)[:, None]",
        f"WIDTH: tl.constexpr = BLOCK_C // {phase.parts}",
    ]
    for j in range(len(phase.products)):
        lines += [
            f"n_blocks_{j}: tl.constexpr = (CI_{j} + BLOCK_K_{j} - 1) // BLOCK_K_{j}",
            f"n_weight_{j}: tl.constexpr = BLOCK_K_{j} * BLOCK_C",
        ]
    if phase.products:
        lines += ["i_z = i_m // (height * width) % depth"] if phase.axes == 3 else []
        lines += ["i_y = i_m // width % height", "i_x = i_m % width"]
    return lines


def _direction(phase):
    """Take the second direction's arguments where the program is its own."""
    return ["if tl.program_id(1) == 1:", *(f"    {name} = {name}_other" for name in phase.own)]


def _accumulators(phase):
    zero = "tl.zeros((BLOCK_M, {} * BLOCK_C), dtype=tl.float32)"
    n = len(phase.accumulators)
    if phase.joined:
        return [f"acc = {zero.format(n)}"]
    return [f"acc_{k} = {zero.format(1)}" for k in range(n)]


def _product(phase, j, product):
    s, slots = product.source, len(product.accumulators)
    width = slots if phase.joined else 1
    axes, taps = _AXES[-phase.axes :], prod(product.kernel)
    image = f"i_t_{s}.to(tl.int64) * n_images + i_b" if phase.timed[s] else "i_b.to(tl.int64)"
    corners = zip(axes, product.stride, product.padding, strict=True)
    lines = [
        *(f"{a.corner}_{j} = i_{a.name} * {stride} - {padding}" for a, stride, padding in corners),
        f"i_k_{j} = tl.arange(0, BLOCK_K_{j})",
        f"i_pixel_{j} = ({image}) * ({' * '.join(f'{a.extent}_{j}' for a in axes)}) + {_corner(phase, j)}",
        f"p_a_{j} = p_{s} + (i_pixel_{j} * PITCH_{s})[:, None] + i_k_{j}[None, :]",
        # Weights are packed by blocks of channels, taps and blocks of input channels, padded with zeros: no masks.
        f"p_b_{j} = p_weight_{j} + i_tile_c.to(tl.int64) * ({taps * slots} * n_blocks_{j} * n_weight_{j})",
        f"i_n_{j} = tl.arange(0, {width} * BLOCK_C)[None, :]",
        "if WEIGHT_BY_ROWS:",
        f"    p_b_{j} += i_n_{j} * BLOCK_K_{j} + i_k_{j}[:, None]",
        "else:",
        f"    p_b_{j} += i_n_{j} + i_k_{j}[:, None] * ({width} * BLOCK_C)",
        f"for i_step in range(0, n_steps_{j}):",
        f"    i_tap = i_step // n_blocks_{j}",
        f"    i_first = (i_step % n_blocks_{j}) * BLOCK_K_{j}",
        *(f"    {line}" for line in _tap(product)),
        *(f"    {a.name} = {a.corner}_{j} + {a.offset}" for a in axes),
        f"    valid = inside & {' & '.join(f'({a.name} >= 0) & ({a.name} < {a.extent}_{j})' for a in axes)}",
        f"    if CI_{j} % BLOCK_K_{j} == 0:",
        "        valid_a = valid[:, None]",
        "    else:",
        f"        valid_a = valid[:, None] & (i_k_{j} + i_first < CI_{j})[None, :]",
        f"    i_shift = {_shift(phase, j)} * PITCH_{s} + i_first",
        f"    a = tl.load(p_a_{j} + i_shift, mask=valid_a, other=0.0)",
        # The interpreter multiplies the bits of bfloat16.
        "    if INTERPRET:",
        "        a = a.to(tl.float32)",
    ]
    names = ["acc"] if phase.joined else [f"acc_{slot}" for slot in product.accumulators]
    for n, name in enumerate(names):
        lines += [
            f"    b = tl.load(p_b_{j} + (i_step * {slots} + {n}) * n_weight_{j})",
            "    if INTERPRET:",
            "        b = b.to(tl.float32)",
            f"    {name} = tl.dot(a, b, {name}, input_precision=PRECISION)",
        ]
    return lines


def _corner(phase, j):
    """The source's pixel, within its map, on which the first tap of each of a tile's pixels lies."""
    if phase.axes == 2:
        return f"top_{j} * n_columns_{j} + left_{j}"
    return f"(front_{j}.to(tl.int64) * n_rows_{j} + top_{j}) * n_columns_{j} + left_{j}"


def _tap(product):
    """Where a tap lies from the first one."""
    *_, kh, kw = product.kernel
    *dz, dy, dx = product.dilation
    lines = [f"i_right = i_tap % {kw} * {dx}"]
    if not dz:
        return [f"i_down = i_tap // {kw} * {dy}", *lines]
    return [f"i_back = i_tap // {kh * kw} * {dz[0]}", f"i_down = i_tap // {kw} % {kh} * {dy}", *lines]


def _shift(phase, j):
    """The pixels of the source between the first tap and this one."""
    if phase.axes == 2:
        return f"(i_down * n_columns_{j} + i_right).to(tl.int64)"
    return f"((n_rows_{j}.to(tl.int64) * i_back + i_down) * n_columns_{j} + i_right)"


def _address(phase, place):
    k = place.pointer
    slot = f" + {place.slot} * C" if place.slot else ""
    if place.spread:
        return f"p_{k} + i_channel{slot}"
    row = f"(i_t_{k}.to(tl.int64) * n_pixels + i_row)" if phase.timed[k] else "i_row"
    return f"p_{k} + {row} * PITCH_{k} + i_channel{slot}"


def _load(phase, place):
    mask = "in_channels" if place.spread else "mask"
    return f"tl.load({_address(phase, place)}, mask={mask}, other=0.0).to(tl.float32)"


def _store(phase, place, value):
    return f"store({_address(phase, place)}, {value}, mask, INTERPRET)"


def _halves(name, pieces, unit):
    """Take ``name`` apart into ``pieces``, blocks of columns that lie side by side, each of them ``unit`` wide.

    The columns of a half are whole registers of each thread, so nothing moves.
    """
    if len(pieces) == 1:
        return [f"{pieces[0]} = {name}"]
    half = len(pieces) // 2
    low, high = f"{name}_low", f"{name}_high"
    return [
        f"{low}, {high} = {name}.reshape(BLOCK_M, 2, {half} * {unit}).permute(0, 2, 1).split()",
        *_halves(low, pieces[:half], unit),
        *_halves(high, pieces[half:], unit),
    ]


def _apart(phase):
    """Accumulators as blocks of one slot and one part of the channels."""
    pieces = [[f"acc_{n}_{part}" for part in range(phase.parts)] for n in range(len(phase.accumulators))]
    if phase.joined:
        return _halves("acc", [name for row in pieces for name in row], "WIDTH")
    return [line for n, row in enumerate(pieces) for line in _halves(f"acc_{n}", row, "WIDTH")]


def _complete(phase):
    """Add what the accumulators start from; write those that others read."""
    lines = []
    for n, accumulator in enumerate(phase.accumulators):
        if accumulator.start is not None:
            lines.append(f"acc_{n} += {_load(phase, accumulator.start)}")
        if accumulator.stored:
            lines.append(_store(phase, accumulator.place, f"acc_{n}"))
    return lines


def _stage(phase):
    sig, lines = phase.signature, []
    where = {arg.name: (place, taken) for arg, place, taken in zip(sig.args, phase.places, phase.taken, strict=True)}

    def present(name):
        place, taken = where[name]
        return f"acc_{taken}" if taken is not None else _load(phase, place)

    lines += [f"b_{arg.name} = {present(arg.name)}" for arg in sig.args if arg.mode == "load"]
    carried = {}
    for source, target, *more in sig.carries:
        lines += [f"b_{source} = b_{source} + b_{other}" for other in more]
        carried[target] = f"b_{source}"
    lines += [f"b_{symbol.name} = {_PRINTER.doprint(expr)}" for symbol, expr in sig.code.body]
    outputs = {symbol.name: expr for symbol, expr in sig.code.outputs}
    # Values first, stores after: states may be overwritten in place.
    stored = [arg for arg in sig.args if arg.mode != "load"]
    zero = "tl.zeros((BLOCK_M, WIDTH), dtype=tl.float32)"
    for arg in stored:
        expr = outputs.get(arg.name, 0)
        value = _PRINTER.doprint(expr)
        if expr == 0:
            value = zero
        elif not expr.free_symbols or arg.role == "d_param":
            value = f"{zero} + {value}"
        if arg.mode == "accumulate" and arg.role != "d_param":
            value = f"{present(arg.name)} + {value}"
        lines.append(f"out_{arg.name} = {value}")
    if phase.freezes:
        lines.append("ended = (i_time >= tl.load(p_lengths + i_b, mask=inside, other=0))[:, None]")
        lines += [f"out_{a.name} = tl.where(ended, {_frozen(a, carried)}, out_{a.name})" for a in stored]
    for arg in stored:
        place, _ = where[arg.name]
        if arg.role == "d_param":
            lines += _parameter_gradient(phase, arg, place)
        else:
            lines.append(_store(phase, place, f"out_{arg.name}"))
    return lines


def _frozen(arg: Arg, carried):
    """What an argument gets where the sequence has ended."""
    if arg.mode == "accumulate" and arg.role != "d_param":
        raise NotImplementedError(f"{arg.name}: the stage that freezes ended sequences runs first in backward")
    return carried.get(arg.name, "0.0")


def _parameter_gradient(phase, arg, place):
    """Sums over pixels without atomics, the same at every run: each program adds to a row of its own."""
    name, k = arg.name, place.pointer
    if not place.spread:
        address = _address(phase, place)
        return [f"tl.store({address}, tl.load({address}, mask=mask, other=0.0) + out_{name}, mask=mask)"]
    return [
        f"sum_{name} = tl.sum(tl.where(mask, out_{name}, 0.0), axis=0)",
        f"p_sum_{name} = p_{k} + i_tile_m.to(tl.int64) * C + i_c",
        f"tl.store(p_sum_{name}, tl.load(p_sum_{name}, mask=i_c < C, other=0.0) + sum_{name}, mask=i_c < C)",
    ]


@cache
def kernel_of(fingerprint: str, phase: Phase):
    """The phase as a function that Triton compiles, made once per process."""
    from fastrcn.compiler import triton_functions

    names = ("sigmoid", "tanh", "relu", "exp", "positive", "store")
    functions = {name: getattr(triton_functions, name) for name in names}
    return jitted(fingerprint, phase, phase_source(phase), functions)


def jitted(fingerprint: str, what: Phase | Walk, source: str, functions):
    """The kernel with this source as a function that Triton compiles; ``functions``: what it calls.

    Triton reads a function's source through ``inspect``. An entry in ``linecache`` serves it without a file: nothing to
    write, lock or clean, and error messages still quote the line. What Triton compiles it caches itself, by source.
    """
    import triton
    import triton.language as tl

    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    file = f"<fastrcn cell {fingerprint}, phase {digest}>"
    # Entries without a time of change are not checked against the disk.
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    # A kernel that calls two functions takes them for one where module, name and types of arguments are the same.
    scope = {"tl": tl, "__name__": f"{__name__}.phase_{digest}"} | functions
    exec(compile(source, file, "exec"), scope)
    # Numbers that change with the call must not start another compilation.
    changing = [name for name in what.arguments if not name.startswith("p_")]
    return triton.jit(do_not_specialize=changing)(scope[what.name])
