"""Stages as C++: the equations as one ``__host__ __device__`` function, and the loop over pixels that calls it.

The same function is compiled for the CPU (once per instruction set) and for CUDA.
"""

from fastrcn.compiler.emit import Printer, assignments
from fastrcn.compiler.schedule import Schedule, make_schedule
from fastrcn.compiler.signature import Signature, backward_signatures, can_be_fused, forward_signatures

_PRINTER = Printer(
    {name: f"math::{name}" for name in ("sigmoid", "tanh", "relu", "exp", "positive")},
    number="F({})",
)


def _name(fingerprint, sig: Signature):
    return f"stage_{fingerprint}_{sig.stage}_{'bwd' if sig.backward else 'fwd'}"


def equations_source(fingerprint: str, sig: Signature) -> str:
    """The stage at one point: values in, values out."""
    reads = [f"const F {s.name}" for s in sig.code.reads]
    writes = [f"F& out_{s.name}" for s, _ in sig.code.outputs]
    lines = ["template <class F>", f"FRCN_HD void {_name(fingerprint, sig)}({', '.join(reads + writes)}) {{"]
    lines += [line + ";" for line in assignments(sig.code, _PRINTER, "  const F ")]
    lines += [f"  out_{s.name} = {_PRINTER.doprint(expr)};" for s, expr in sig.code.outputs]
    return "\n".join([*lines, "}", ""])


def _frozen(sig: Signature):
    """Argument and name of the flag, for stages that treat ended sequences differently."""
    return ["frozen"] if sig.carries else []


def _point_lines(name, sig: Signature):
    """The stage at one channel of one pixel, on whatever can be indexed by the channel: rows in memory, or values that
    were loaded before."""
    types = [f"X{k}" for k in range(len(sig.args))]
    given = [f"{x}& {arg.name}" for x, arg in zip(types, sig.args, strict=True)]
    lines = [f"  template <{', '.join('class ' + x for x in types)}>"]
    lines.append(
        f"  static FRCN_HD void at({', '.join([*given, 'int64_t i', *('bool ' + f for f in _frozen(sig))])}) {{"
    )
    if sig.carries:
        lines.append("    if (frozen) {")
        for source, target, *more in sig.carries:
            value = " + ".join(f"load<A>({n}[i])" for n in (source, *more))
            lines.append(f"      store({target}[i], {value});")
        lines += [f"      store({name_}[i], A(0));" for name_ in sig.zeroes]
        lines += ["      return;", "    }"]
    names = {arg.name for arg in sig.args}
    reads = []
    for symbol in sig.code.reads:
        value = f"load<A>({symbol.name}[i])"
        if [n for s, _, *more in sig.carries for n in more if s == symbol.name] == ["d_output"]:
            value += " + load<A>(d_output[i])"
        assert symbol.name in names, symbol
        reads.append(value)
    outputs = [s.name for s, _ in sig.code.outputs]
    lines.append(f"    A {', '.join('out_' + n for n in outputs)};")
    lines.append(f"    {name}<A>({', '.join(reads + ['out_' + n for n in outputs])});")
    for arg in sig.args:
        if arg.mode == "load":
            continue
        value = f"out_{arg.name}" if arg.name in outputs else "A(0)"
        if arg.mode == "accumulate":
            value = f"load<A>({arg.name}[i]) + {value}"
        lines.append(f"    store({arg.name}[i], {value});")
    return [*lines, "  }"]


def row_source(fingerprint: str, sig: Signature) -> str:
    """The stage over one pixel's channels, with ended sequences frozen. S: storage type, A: accumulation type."""
    name, frozen = _name(fingerprint, sig), _frozen(sig)
    lines = ["template <class S, class A>", f"struct {name}_rows {{"]
    lines += [f"  static constexpr int arguments = {len(sig.args)};", ""]
    lines += [*_point_lines(name, sig), ""]
    lines.append(f"  static FRCN_HD void channel(const StageArgs& a, int64_t p, int64_t i, bool {''.join(frozen)}) {{")
    for k, arg in enumerate(sig.args):
        kind = ("const " if arg.mode == "load" else "") + ("A" if arg.wide else "S")
        lines.append(f"    {kind}* {arg.name} = row<{kind}>(a, {k}, p);")
    lines.append(f"    at({', '.join([*(arg.name for arg in sig.args), 'i', *frozen])});")
    return "\n".join([*lines, "  }", "};", ""])


def lanes_source(schedule: Schedule, sig: Signature) -> str:
    """The stage at V neighbouring channels of a pixel, as a GPU's thread takes them: everything is loaded first.

    To arguments that convolutions complete it adds their results. Gradients of parameters stay with the caller.
    """
    name, frozen = _name(schedule.fingerprint, sig), _frozen(sig)
    sums = [arg.name for arg in sig.args if arg.role == "d_param"]
    lines = ["template <class S, class A, int V>", f"struct {name}_lanes {{"]
    held = sum(arg.mode != "store" for arg in sig.args)
    lines += [f"  static constexpr int lanes = V, arguments = {len(sig.args)}, sums = {len(sums)}, held = {held};"]
    lines += [f"  static constexpr bool can_be_fused = {str(can_be_fused(schedule, sig)).lower()};"]
    lines += ["  using Value = A;", "  using Sum = Pack<A, V>;", ""]
    given = f"int64_t p, int64_t i, bool {''.join(frozen)}, Sum*{' gradients' if sums else ''}"
    lines += ["  template <class Stage>", f"  static FRCN_HD void run(const Stage& a, {given}) {{"]
    values, adds, writes = [], [], []
    for k, arg in enumerate(sig.args):
        kind, at = f"<{'A' if arg.wide else 'S'}, V>", f"(a, {k}, p, i)"
        if arg.role == "d_param":
            values.append(f"gradients[{sums.index(arg.name)}]")
            continue
        values.append(arg.name)
        if arg.mode == "store":
            lines.append(f"    Pack{kind} {arg.name};")
        elif sig.is_completed(arg):
            lines.append(f"    auto {arg.name} = read_begun{kind}{at};")
            lines.append(f"    const auto more_{k} = read_addend{kind}{at};")
            adds.append(f"    add<A>({arg.name}, more_{k});")
            if arg.role == "slot":
                writes.append(f"    write_completed(a, {k}, p, i, {arg.name});")
        elif arg.mode == "load" and not sig.is_read(arg):
            lines.append(f"    const auto {arg.name} = frozen ? read_lanes{kind}{at} : Pack{kind}{{}};")
        else:
            lines.append(f"    {'const ' if arg.mode == 'load' else ''}auto {arg.name} = read_lanes{kind}{at};")
        if arg.mode != "load":
            writes.append(f"    write_lanes(a, {k}, p, i, {arg.name});")
    lines += [*adds, "#pragma unroll"]
    call = f"{name}_rows<S, A>::at({', '.join([*values, 'j', *frozen])})"
    lines += [f"    for (int j = 0; j < V; ++j) {call};", *writes]
    return "\n".join([*lines, "  }", "};", ""])


def header_source(cells) -> str:
    """The header that holds every stage of ``cells``, and their list ``FRCN_STAGES(X)``."""
    parts = ["// Emitted from cells' equations. Not for editing.", ""]
    lanes: list[str] = []
    entries: list[str] = []
    seen = set()
    for cell in cells:
        schedule = make_schedule(cell)
        if schedule.fingerprint in seen:
            continue
        seen.add(schedule.fingerprint)
        for sig in (*forward_signatures(schedule), *backward_signatures(schedule)):
            parts += [equations_source(schedule.fingerprint, sig), row_source(schedule.fingerprint, sig)]
            lanes.append(lanes_source(schedule, sig))
            grads = sum(arg.role == "d_param" for arg in sig.args)
            entries.append(
                f'  X({_name(schedule.fingerprint, sig)}, "{schedule.fingerprint}", {sig.stage}, '
                f"{int(sig.backward)}, {grads})"
            )
    parts += ["#if defined(FRCN_STAGE_LANES)", *lanes, "#endif", ""]
    parts += ["#define FRCN_STAGES(X) \\", " \\\n".join(entries), ""]
    return "\n".join(parts)
