"""Stages as C++: the equations as one ``__host__ __device__`` function, and the loop over pixels that calls it.

The same function is compiled for the CPU (once per instruction set) and for CUDA.
"""

from fastrcn.compiler.emit import Printer, assignments
from fastrcn.compiler.schedule import make_schedule
from fastrcn.compiler.signature import Signature, backward_signatures, forward_signatures

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


def row_source(fingerprint: str, sig: Signature) -> str:
    """The stage over one pixel's channels, with ended sequences frozen. S: storage type, A: accumulation type."""
    name = _name(fingerprint, sig)
    lines = ["template <class S, class A>", f"struct {name}_rows {{"]
    lines += [f"  static constexpr int arguments = {len(sig.args)};"]
    frozen = "frozen" if sig.carries else ""
    lines += [f"  static FRCN_HD void channel(const StageArgs& a, int64_t p, int64_t i, bool {frozen}) {{"]
    for k, arg in enumerate(sig.args):
        kind = "A" if arg.wide else "S"
        const = "const " if arg.mode == "load" else ""
        lines.append(f"    {const}{kind}* {arg.name} = row<{const}{kind}>(a, {k}, p);")
    if sig.carries:
        lines.append("    if (frozen) {")
        for source, target, *more in sig.carries:
            value = " + ".join(f"load<A>({n}[i])" for n in (source, *more))
            lines.append(f"      store({target}[i], {value});")
        lines += [f"      store({name_}[i], A(0));" for name_ in sig.zeroes]
        lines += ["      return;", "    }"]
    given = {arg.name for arg in sig.args}
    reads = []
    for symbol in sig.code.reads:
        value = f"load<A>({symbol.name}[i])"
        if [n for s, _, *more in sig.carries for n in more if s == symbol.name] == ["d_output"]:
            value += " + load<A>(d_output[i])"
        assert symbol.name in given, symbol
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
    return "\n".join([*lines, "  }", "};", ""])


def header_source(cells) -> str:
    """The header that holds every stage of ``cells`` and the list ``FRCN_STAGES(X)`` of them."""
    parts = ["// Emitted from the equations in fastrcn/cells when the package is built. Not for editing.", ""]
    entries, seen = [], set()
    for cell in cells:
        schedule = make_schedule(cell)
        if schedule.fingerprint in seen:
            continue
        seen.add(schedule.fingerprint)
        parts.append(f"// {cell!r}")
        for sig in (*forward_signatures(schedule), *backward_signatures(schedule)):
            parts += [equations_source(schedule.fingerprint, sig), row_source(schedule.fingerprint, sig)]
            grads = sum(arg.role == "d_param" for arg in sig.args)
            entries.append(
                f'  X({_name(schedule.fingerprint, sig)}, "{schedule.fingerprint}", {sig.stage}, '
                f"{int(sig.backward)}, {grads})"
            )
    parts += ["#define FRCN_STAGES(X) \\", " \\\n".join(entries), ""]
    return "\n".join(parts)
