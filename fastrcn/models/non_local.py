"""The non-local block of Wang et al. 2018, https://arxiv.org/abs/1711.07971: every position looks at all others."""

from typing import Any

from torch import nn
from torch.nn import functional as F

VARIANTS = ("embedded", "gaussian", "dot_product", "concatenation")


class NonLocalBlock(nn.Module):
    """``z = W_z y + x`` with ``y_i = sum_j f(x_i, x_j) g(x_j) / C_i`` over all positions j of a clip.

    ================  ======================================  ==============
    variant           f(x_i, x_j)                             C_i
    ================  ======================================  ==============
    "embedded"        exp(theta(x_i) . phi(x_j))              sum_j f
    "gaussian"        exp(x_i . x_j)                          sum_j f
    "dot_product"     theta(x_i) . phi(x_j)                   positions j
    "concatenation"   relu(w_f . [theta(x_i), phi(x_j)])      positions j
    ================  ======================================  ==============

    Theta, phi, g and W_z are 1x1x1 convolutions with biases, between C and C/2 channels. The first two variants are
    attention; like "dot_product", they need no memory for all pairs of positions.

    Args:
        channels: C of the maps.
        variant: one of the above.
        subsample: window and stride of a max-pooling before phi and g, one number for each dimension; (1, 2, 2) in
            published nets, None for none.
        scale: whether the two attentions divide the products by the square root of the vectors' width. The published
            weights want it; the paper's formula has none.
        batch_norm: whether a normalisation follows W_z.
        zero_init: "bn" starts its scale with 0 (the paper and its code), "conv" W_z itself (as lectures tell it).
            With either the block lets its input through at first. None: neither.
        dims: dimensions of the maps, 3 for clips; 2 for images, 1 for sequences.
    Shapes: (N,C,T,H,W) -> (N,C,T,H,W).
    Raises: ValueError naming the argument.
    """

    def __init__(
        self, channels, variant="embedded", *, subsample=None, scale=True, batch_norm=True,
        zero_init: str | None = "bn", dims=3,
    ):  # fmt: skip
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
        if dims not in (1, 2, 3):
            raise ValueError(f"dims: expected 1, 2 or 3, got {dims}")
        if channels < 2 or channels % 2:
            raise ValueError(f"channels: expected an even number, got {channels}")
        if subsample is not None and len(subsample) != dims:
            raise ValueError(f"subsample: expected {dims} numbers or None, got {subsample}")
        if zero_init not in ("bn", "conv", None) or (zero_init == "bn" and not batch_norm):
            expected = '"bn", "conv" or None' if batch_norm else '"conv" or None without batch_norm'
            raise ValueError(f"zero_init: expected {expected}, got {zero_init!r}")
        conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        pool: Any = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
        norm: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        inner = channels // 2
        self.channels, self.variant, self.scale, self.dims = channels, variant, scale, dims
        self.subsample = None if subsample is None else tuple(subsample)
        self.pool = None if self.subsample is None else pool(self.subsample)
        if variant != "gaussian":
            self.conv_theta = conv(channels, inner, 1)
            self.conv_phi = conv(channels, inner, 1)
        if variant == "concatenation":
            self.w_f = nn.Linear(2 * inner, 1, bias=False)
        self.conv_g = conv(channels, inner, 1)
        self.conv_out = conv(inner, channels, 1)
        self.norm = norm(channels) if batch_norm else None
        self.zero_init = zero_init
        self.start_with_zeros()

    def start_with_zeros(self):
        """Fill W_z, or the scale of its normalisation, with zeros, as ``zero_init`` says."""
        if self.zero_init == "conv":
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)
        if self.zero_init == "bn" and self.norm is not None:
            nn.init.zeros_(self.norm.weight)

    def _gathered(self, x, seen):
        """y as (N,P,C/2): for all positions of x the mean of g over those of ``seen``."""
        g = _tokens(self.conv_g(seen))
        if self.variant == "gaussian":
            # Attention that keeps no matrix of all pairs wants all widths equal.
            wide = F.pad(g, (0, self.channels - g.shape[-1]))
            return _attention(_tokens(x), _tokens(seen), wide, self.scale)[..., : g.shape[-1]]
        theta, phi = _tokens(self.conv_theta(x)), _tokens(self.conv_phi(seen))
        if self.variant == "embedded":
            return _attention(theta, phi, g, self.scale)
        if self.variant == "dot_product":
            return theta @ (phi.mT @ g / g.shape[1])  # in this order there is no matrix of all pairs
        of_theta, of_phi = self.w_f.weight.squeeze(0).chunk(2)
        pairs = (theta @ of_theta)[:, :, None] + (phi @ of_phi)[:, None]
        return pairs.relu_() @ g / g.shape[1]

    def forward(self, x):
        """Maps of the same shape."""
        if x.dim() != self.dims + 2 or x.shape[1] != self.channels:
            expected = f"(N,{self.channels},{','.join('THW'[-self.dims :])})"
            raise ValueError(f"x: expected {expected}, got shape {tuple(x.shape)}")
        if self.subsample is not None and any(n < k for n, k in zip(x.shape[2:], self.subsample, strict=True)):
            raise ValueError(f"x: expected maps of {self.subsample} or more, the subsampling's window, "
                             f"got shape {tuple(x.shape)}")  # fmt: skip
        y = self._gathered(x, x if self.pool is None else self.pool(x))
        y = self.conv_out(y.mT.unflatten(2, x.shape[2:]))
        y = y if self.norm is None else self.norm(y)
        return x + y  # in the layout of x, which the net goes on with


def _tokens(maps):
    """(N,C,...) -> (N,P,C), one position after another: else attention keeps a matrix of all pairs."""
    return maps.flatten(2).mT.contiguous()


def _attention(query, key, value, scale):
    """Attention with one head; (N,1,P,C) is the form that PyTorch's fused ones take."""
    query, key, value = (t[:, None] for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=None if scale else 1.0)[:, 0]
