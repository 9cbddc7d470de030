"""Continuation markers as in Caffe's recurrent layers: a marker of 0 begins a new sequence inside a longer one."""

from typing import Any

import torch


def _check(layer, input, markers) -> tuple[Any, ...]:
    if layer.bidirectional:
        raise ValueError(
            "layer: expected one direction, a marker says nothing about the other; got a bidirectional one"
        )
    inputs = (input,) if isinstance(input, torch.Tensor) else tuple(input)
    rank = 5 if layer.maps else 3
    for x in inputs:
        if x.dim() != rank:
            raise ValueError(f"input: expected {rank} dimensions, a batch of sequences, got shape {tuple(x.shape)}")
    lead = tuple(inputs[0].shape[:2])
    if tuple(markers.shape) != lead:
        raise ValueError(f"markers: expected shape {lead}, one for each step, got {tuple(markers.shape)}")
    if not bool(((markers == 0) | (markers == 1)).all()):
        raise ValueError(f"markers: expected 0 (begins anew) or 1 (goes on), got {markers.unique().tolist()}")
    return inputs


def run_with_markers(layer, input, markers, hx=None):
    """Run a recurrent layer where a step whose marker is 0 sets the states of all its layers to zero first.

    The sequences are cut at their markers, and all pieces run as one batch with ``lengths``: whatever the markers, the
    layer is called once. Pieces are padded to the longest, so markers at even distances cost nothing.

    Args:
        layer: a ``ConvRecurrent`` (so also LSTM, GRU, RNN, ConvLSTM, ...) of one direction.
        input: as the layer takes it, batched.
        markers: (T,B), or (B,T) with the layer's ``batch_first``; 0 or 1, or booleans. Read on the host.
        hx: initial states as the layer's; a sequence whose first marker is 0 does not use them.
    Returns:
        output and last states, as the layer gives them.
    Raises: ValueError naming the argument, and what the layer raises.
    """
    inputs = _check(layer, input, markers)
    if not layer.batch_first:
        inputs, markers = tuple(x.transpose(0, 1) for x in inputs), markers.t()
    batch, steps = markers.shape
    begins = markers == 0
    goes_on = ~begins[:, 0]
    begins[:, 0] = True

    # Positions below count through the first sequence, then the second, and so on.
    piece = begins.flatten().cumsum(0) - 1
    first = begins.flatten().nonzero()[:, 0]
    lengths = piece.bincount()
    longest = int(lengths.max()) if batch else steps
    step = torch.arange(batch * steps, device=piece.device) - first[piece]
    # (pieces, longest); padded with each piece's last step
    taken = first[:, None] + torch.minimum(torch.arange(longest, device=piece.device), lengths[:, None] - 1)

    states: Any = None
    if hx is not None:
        given = (hx,) if isinstance(hx, torch.Tensor) else tuple(hx)
        for state in given:
            if state.dim() < 2 or state.shape[1] != batch:
                raise ValueError(f"hx: expected states of {batch} sequences, got shape {tuple(state.shape)}")
        used = begins.new_zeros(len(first))
        used[piece.view(batch, steps)[:, 0]] = goes_on
        states = tuple(_of_pieces(s, first // steps, used) for s in given)
        states = states if len(states) > 1 else states[0]

    pieces: Any = tuple(x.flatten(0, 1)[taken] for x in inputs)
    if not layer.batch_first:
        pieces = tuple(x.transpose(0, 1) for x in pieces)
    even = bool((lengths == longest).all())
    output, last = layer(pieces if len(pieces) > 1 else pieces[0], states, lengths=None if even else lengths)
    if not layer.batch_first:
        output = output.transpose(0, 1)
    output = output[piece, step].unflatten(0, (batch, steps))
    end = piece.view(batch, steps)[:, -1]
    last = last[:, end] if isinstance(last, torch.Tensor) else tuple(s[:, end] for s in last)
    return output if layer.batch_first else output.transpose(0, 1), last


def _of_pieces(state, sequence, used):
    """Initial states (layers, pieces, ...): those of the piece's sequence where they are used, else zero."""
    mask = used.view(1, -1, *(1,) * (state.dim() - 2))
    return state[:, sequence].masked_fill(~mask, 0)
