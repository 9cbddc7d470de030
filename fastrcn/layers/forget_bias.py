"""A number added to the forget gate when the layer runs, as flax does; Jozefowicz et al. 2015 found 1 to help."""

import math

import torch.nn.functional as F

from fastrcn.layers.weights import Weights


def check_forget_bias(value):
    """The offset as a float, if it is a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"forget_bias: expected a finite number, got {value!r}")
    return float(value)


class ForgetBias(Weights):
    """A layer with gates packed i, f, g, o whose bias reaches the operator with ``forget_bias`` added to that of f.

    The offset is no parameter: ``state_dict`` does not have it, and it is there with ``bias=False`` too.
    """

    forget_bias = 0.0

    def _arguments(self, suffix):
        weight_ih, weight_hh, bias, weight_ch = super()._arguments(suffix)
        if self.forget_bias:
            n = self.hidden_size
            offset = F.pad(weight_hh.new_full((n,), self.forget_bias), (n, 2 * n))
            bias = offset if bias is None else bias + offset
        return weight_ih, weight_hh, bias, weight_ch

    def extra_repr(self):
        return super().extra_repr() + (f", forget_bias={self.forget_bias}" if self.forget_bias else "")
