"""Print straight-line code in a target language; a target is a table of how its functions are spelled."""

from sympy.printing.str import StrPrinter

from fastrcn.compiler.differentiate import function_name


class Printer(StrPrinter):
    """Expressions as text for languages with C's arithmetic. Powers are written as products."""

    def __init__(self, functions: dict[str, str], number="{}"):
        super().__init__()
        self.functions = functions
        self.number = number

    def _print_Function(self, expr):
        return f"{self.functions[function_name(expr)]}({', '.join(self._print(a) for a in expr.args)})"

    def _print_Integer(self, expr):
        return self.number.format(int(expr))

    def _print_Rational(self, expr):
        return f"({self.number.format(int(expr.p))} / {self.number.format(int(expr.q))})"

    def _print_Float(self, expr):
        return self.number.format(repr(float(expr)))

    def _print_Pow(self, expr, rational=False):
        base, power = expr.args
        if not power.is_Integer:
            raise ValueError(f"step: expected whole powers, got {expr}")
        product = "*".join([self.parenthesize(base, 60)] * abs(int(power)))
        return f"({product})" if power > 0 else f"({self.number.format(1)} / ({product}))"


def assignments(code, printer, prefix=""):
    """``name = expression`` for each line of the body."""
    return [f"{prefix}{symbol.name} = {printer.doprint(expr)}" for symbol, expr in code.body]
