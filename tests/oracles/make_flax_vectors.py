"""Makes flax_conv_lstm.npz, which test_flax.py reads: ConvLSTM of flax.linen with gradients, in float64.

Needs jax==0.10.2, jaxlib==0.10.2, flax==0.12.8 (in an environment of their own, without PyTorch):

    python tests/oracles/make_flax_vectors.py

flax packs the gates i, g, f, o, adds 1 to the forget gate when it runs and keeps maps channels-last.
"""

from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

STEPS, BATCH, HEIGHT, WIDTH, INPUTS, HIDDEN = 4, 2, 5, 4, 3, 2
KERNELS = {"k3": (3, 3), "k1x5": (1, 5)}


def vectors(kernel, seed):
    rng = np.random.default_rng(seed)
    cell = nn.ConvLSTMCell(HIDDEN, kernel, param_dtype=jnp.float64, dtype=jnp.float64)
    x = rng.standard_normal((STEPS, BATCH, HEIGHT, WIDTH, INPUTS))
    c0, h0 = rng.standard_normal((2, BATCH, HEIGHT, WIDTH, HIDDEN))
    params = cell.init(jax.random.key(0), (c0, h0), x[0])["params"]
    params = jax.tree.map(lambda p: 0.4 * jnp.asarray(rng.standard_normal(p.shape)), params)
    parts = rng.standard_normal((STEPS, BATCH, HEIGHT, WIDTH, HIDDEN)), rng.standard_normal(c0.shape)

    def run(params, x, h0, c0):
        carry, outputs = (c0, h0), []
        for frame in x:
            carry, output = cell.apply({"params": params}, carry, frame)
            outputs.append(output)
        return jnp.stack(outputs), carry[0]

    def loss(*args):
        output, c = run(*args)
        return (output * parts[0]).sum() + (c * parts[1]).sum()

    output, c = run(params, x, h0, c0)
    d_params, d_x, d_h0, d_c0 = jax.grad(loss, (0, 1, 2, 3))(params, x, h0, c0)
    found = {"x": x, "h0": h0, "c0": c0, "output": output, "c": c, "to_output": parts[0], "to_c": parts[1]}
    found |= {"d_x": d_x, "d_h0": d_h0, "d_c0": d_c0}
    for prefix, tree in (("", params), ("d_", d_params)):
        found |= {f"{prefix}{layer}.{name}": v for layer, leaves in tree.items() for name, v in leaves.items()}
    return found


if __name__ == "__main__":
    arrays = {}
    for seed, (label, kernel) in enumerate(KERNELS.items()):
        arrays |= {f"{label}/{name}": np.asarray(v) for name, v in vectors(kernel, seed).items()}
    np.savez_compressed(Path(__file__).with_name("flax_conv_lstm.npz"), **arrays)
    print({name: (v.shape, str(v.dtype)) for name, v in arrays.items()})
