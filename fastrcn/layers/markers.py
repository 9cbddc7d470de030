"""Continuation markers as in Caffe's recurrent layers: a marker of 0 begins a new sequence inside a longer one."""

import torch


def run_with_markers(layer, input, markers, hx=None):
    """Run a recurrent layer where a step whose marker is 0 sets the states of all its layers to zero first.

    It is the layer's ``reset``, which is True where the marker is 0; see there what it costs.

    Args:
        layer: a ``ConvRecurrent`` (so also LSTM, GRU, RNN, ConvLSTM, ...) of one direction.
        input: as the layer takes it, batched.
        markers: (T,B), or (B,T) with the layer's ``batch_first``; 0 or 1, or booleans. Read on the host.
        hx: initial states as the layer's; a sequence whose first marker is 0 does not use them.
    Returns:
        output and last states, as the layer gives them.
    Raises: ValueError naming the argument, and what the layer raises.
    """
    if layer.bidirectional:
        raise ValueError(
            "layer: expected one direction, a marker says nothing about the other; got a bidirectional one"
        )
    rank = 3 + layer.axes
    first = input if isinstance(input, torch.Tensor) else input[0]
    if first.dim() != rank:
        raise ValueError(f"input: expected {rank} dimensions, a batch of sequences, got shape {tuple(first.shape)}")
    lead = tuple(first.shape[:2])
    if tuple(markers.shape) != lead:
        raise ValueError(f"markers: expected shape {lead}, one for each step, got {tuple(markers.shape)}")
    if not bool(((markers == 0) | (markers == 1)).all()):
        raise ValueError(f"markers: expected 0 (begins anew) or 1 (goes on), got {markers.unique().tolist()}")
    return layer(input, hx, reset=markers == 0)
