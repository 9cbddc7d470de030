"""fastrcn.interop's keras, flax and haiku against the packages themselves; see README.md beside it."""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"

import jax

jax.config.update("jax_enable_x64", True)

import flax.linen as nn  # noqa: E402
import haiku as hk  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import fastrcn.interop.flax  # noqa: E402
import fastrcn.interop.haiku  # noqa: E402
import fastrcn.interop.keras  # noqa: E402

keras.config.set_floatx("float64")

STEPS, BATCH, INPUTS, HIDDEN, LIMIT = 4, 2, 3, 2, 1e-11
MAPS = {1: (6,), 2: (5, 6), 3: (4, 5, 6)}
KERNELS = {1: (3,), 2: (3, 5), 3: (3, 1, 3)}


def with_keras(rank, weights, x, h, c, **options):
    """(weights, outputs, h, c) of a layer with these weights, or random ones; x is (T,B,*map,C)."""
    # Keras' own tanh on JAX is exact to 1e-7 only, also in float64.
    options = {"activation": jnp.tanh, **options}
    kind = {1: keras.layers.ConvLSTM1D, 2: keras.layers.ConvLSTM2D, 3: keras.layers.ConvLSTM3D}[rank]
    layer = kind(HIDDEN, KERNELS[rank], padding="same", return_sequences=True, return_state=True, **options)
    batch_first = jnp.swapaxes(x, 0, 1)
    layer.build((BATCH, STEPS, *MAPS[rank], INPUTS))
    layer.set_weights(shaken(layer.get_weights()) if weights is None else weights)
    output, h, c = layer(batch_first, initial_state=[h, c])
    return layer.get_weights(), jnp.swapaxes(output, 0, 1), h, c


def with_flax(rank, weights, x, h, c, **options):
    cell = nn.ConvLSTMCell(HIDDEN, KERNELS[rank], dtype=jnp.float64, param_dtype=jnp.float64, **options)
    weights = shaken(cell.init(jax.random.key(0), (c, h), x[0])["params"]) if weights is None else weights
    outputs, carry = [], (c, h)
    for frame in x:
        carry, output = cell.apply({"params": weights}, carry, frame)
        outputs.append(output)
    return weights, jnp.stack(outputs), carry[1], carry[0]


def with_haiku(rank, weights, x, h, c):
    def run(x, h, c):
        kind = {1: hk.Conv1DLSTM, 2: hk.Conv2DLSTM, 3: hk.Conv3DLSTM}[rank]
        core = kind(MAPS[rank], HIDDEN, KERNELS[rank], name="core")
        return hk.dynamic_unroll(core, x, hk.LSTMState(h, c))

    function = hk.without_apply_rng(hk.transform(run))
    weights = shaken(function.init(jax.random.key(0), x, h, c)) if weights is None else weights
    output, (h, c) = function.apply(weights, x, h, c)
    return weights, output, h, c


def shaken(weights):
    """Random arrays in place of those that a package begins with."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda w: 0.5 * rng.standard_normal(np.shape(w)), weights)


def first(array, lead):
    """(lead, *map, C) as (lead, C, *map)."""
    return torch.from_numpy(np.moveaxis(np.asarray(array), -1, lead).copy())


def error(found, truth):
    return float((found - truth).norm() / truth.norm())


def check(run, convention, rank, layer_options, options, back):
    """The largest relative error of one case; ``back``: options of ``to_state_dict``, None to leave it out."""
    rng = np.random.default_rng(rank)
    x = jnp.asarray(rng.standard_normal((STEPS, BATCH, *MAPS[rank], INPUTS)))
    h, c = jnp.asarray(rng.standard_normal((2, BATCH, *MAPS[rank], HIDDEN)))
    weights, *truth = run(rank, None, x, h, c, **options)
    dx = jax.grad(lambda x: (run(rank, weights, x, h, c, **options)[1] ** 2).sum())(x)
    layer = convention.from_state_dict(weights, **layer_options)
    leaf = first(x, 2).requires_grad_()
    output, (h_n, c_n) = layer(leaf, (first(h, 1)[None], first(c, 1)[None]))
    (gradient,) = torch.autograd.grad(output.square().sum(), leaf)
    pairs = zip((output, h_n[0], c_n[0], gradient), (first(truth[0], 2), first(truth[1], 1), first(truth[2], 1),
                                                     first(dx, 2)), strict=True)  # fmt: skip
    errors = [error(found.detach(), value) for found, value in pairs]
    if back is not None:
        again = run(rank, convention.to_state_dict(layer, **back), x, h, c, **options)[1]
        errors.append(error(first(again, 2), first(truth[0], 2)))
    return max(errors)


def check_layer(rank, **options):
    """The largest relative error of ``keras.from_layer`` for a layer with these options."""
    kind = {1: keras.layers.ConvLSTM1D, 2: keras.layers.ConvLSTM2D, 3: keras.layers.ConvLSTM3D}[rank]
    theirs = kind(HIDDEN, KERNELS[rank], **options)
    x = np.random.default_rng(rank).standard_normal((BATCH, STEPS, *(n + 6 for n in MAPS[rank]), INPUTS))
    channels_first = options.get("data_format") == "channels_first"
    theirs.build(np.moveaxis(x, -1, 2).shape if channels_first else x.shape)
    theirs.set_weights(shaken(theirs.get_weights()))
    ours = fastrcn.interop.keras.from_layer(theirs.get_config(), theirs.get_weights(), keras_version=3)
    theirs.cell.activation = jnp.tanh  # see with_keras
    truth = theirs(np.moveaxis(x, -1, 2)) if channels_first else np.moveaxis(theirs(x), -1, 1)
    return error(ours(first(x, 2))[0][:, -1].detach(), torch.from_numpy(np.array(truth)))


def main():
    conventions = fastrcn.interop
    cases = [
        *((with_keras, conventions.keras, rank, {}, {}, {}) for rank in (1, 2, 3)),
        (with_keras, conventions.keras, 2, {"dilation": 2}, {"dilation_rate": 2}, None),
        (with_keras, conventions.keras, 2, {}, {"use_bias": False}, {}),
        *((with_flax, conventions.flax, rank, {}, {}, {}) for rank in (1, 2, 3)),
        *((with_haiku, conventions.haiku, rank, {}, {}, {"name": "core"}) for rank in (1, 2, 3)),
    ]
    worst = 0.0
    for run, convention, rank, layer_options, options, back in cases:
        found = check(run, convention, rank, layer_options, options, back)
        print(f"{convention.__name__} over {rank} dimensions {options or ''}: relative error {found:.1e}")
        worst = max(worst, found)
    for rank in (1, 2, 3):
        for options in (
            {}, {"padding": "same"}, {"strides": 2}, {"dilation_rate": 2, "padding": "same"}, {"use_bias": False},
            {"recurrent_activation": "hard_sigmoid"}, {"unit_forget_bias": False, "data_format": "channels_first"},
        ):  # fmt: skip
            found = check_layer(rank, **options)
            print(
                f"fastrcn.interop.keras.from_layer over {rank} dimensions {options or ''}: relative error {found:.1e}"
            )
            worst = max(worst, found)
    return worst > LIMIT or not np.isfinite(worst)


if __name__ == "__main__":
    sys.exit(main())
