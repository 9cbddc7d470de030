"""Layers and weights of other projects, one file for each convention.

A file of a PyTorch project has its classes under their names, with the same constructor and forward arguments, the same
structure of results and the same state_dict keys and shapes: to migrate is to change the import. They compute with the
fused operations, those of torch.nn where that is faster than its own code; the weights stay in the project's layout and
are packed anew by each call, so gradients reach them. Results are contiguous, as the projects' are. What differs: hooks
on the convolutions inside do not run, and under autocast results are of its type, where the projects keep their states
in float32.

Every file has ``from_state_dict(state, **options)``, a plain fastrcn layer with those weights;
``to_state_dict(layer)``, the way back; and, for PyTorch, ``from_module(module, **options)``::

    from fastrcn.interop.ndrplz import ConvLSTM  # all that changes; old checkpoints load
    from fastrcn.interop import ndrplz

    layer = ndrplz.from_state_dict(torch.load("old.pt"), batch_first=True)  # a fastrcn.ConvLSTM
    torch.save(ndrplz.to_state_dict(layer), "old.pt")

``keras.from_layer(config, weights)`` is a plain layer like one of Keras, of whose options it refuses what it cannot do.
``fastrcn.convert(model)`` finds such layers in a model and exchanges them in place.
"""

from fastrcn.interop import (
    automan000,
    flax,
    haiku,
    happyjin,
    jacobkimmel,
    keras,
    ndrplz,
    openstl,
    raft,
    rvm,
    torch_nn,
    torchvision_raft,
)

__all__ = [
    "automan000",
    "flax",
    "haiku",
    "happyjin",
    "jacobkimmel",
    "keras",
    "ndrplz",
    "openstl",
    "raft",
    "rvm",
    "torch_nn",
    "torchvision_raft",
]
