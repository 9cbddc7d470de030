"""Sequences that are cut where a new one begins: the pieces are one larger batch, so a layer still runs once."""

import torch


def check_reset(reset, steps, batch, batch_first):
    """The mask as a tensor (T,B) of booleans."""
    reset = torch.as_tensor(reset)
    if reset.dtype != torch.bool:
        raise TypeError(f"reset: expected booleans, True where a sequence begins, got {reset.dtype}")
    expected = (batch, steps) if batch_first else (steps, batch)
    if tuple(reset.shape) != expected:
        order = "(B,T)" if batch_first else "(T,B)"
        raise ValueError(f"reset: expected shape {expected}, {order}, got {tuple(reset.shape)}")
    return reset.t() if batch_first else reset


@torch.compiler.disable(reason="reset and the lengths of the pieces are read on the host")
def cut_before(reset, lengths):
    """``Pieces`` as they are; a compiler that does not read numbers goes on after it."""
    return Pieces(reset, lengths)


class Pieces:
    """The pieces of a batch of sequences, cut before each step at which ``reset`` (T,B) is True.

    Nothing is cut at steps past a sequence's length. ``lengths``: those of the pieces, None where all fill the batch.
    """

    def __init__(self, reset, lengths):
        steps, self.batch = reset.shape
        begins = reset.t().clone()
        time = torch.arange(steps, device=reset.device)
        if lengths is not None:
            begins &= time < lengths[:, None]
        self.goes_on = ~begins[:, 0]
        begins[:, 0] = True

        # Positions below count through the first sequence, then the second, and so on.
        self.piece = begins.flatten().cumsum(0) - 1
        first = begins.flatten().nonzero()[:, 0]
        self.sequence, extents = first // steps, self.piece.bincount()
        longest = int(extents.max()) if self.batch else steps
        self.step = torch.arange(self.batch * steps, device=reset.device) - first[self.piece]
        # (longest, pieces); padded with each piece's last step
        self.taken = first + torch.minimum(torch.arange(longest, device=reset.device)[:, None], extents - 1)
        self.of_sequence = self.piece.view(self.batch, steps)
        if lengths is not None:
            extents[self.of_sequence[:, -1]] -= steps - lengths
        self.lengths = None if bool((extents == longest).all()) else extents

    def cut(self, x):
        """(T,B,...) as (longest,pieces,...)."""
        return x.transpose(0, 1).flatten(0, 1)[self.taken]

    def join(self, output):
        """(longest,pieces,...) as (T,B,...)."""
        joined = output[self.step, self.piece]
        return joined.unflatten(0, self.of_sequence.shape).transpose(0, 1)

    def cut_states(self, state, directions):
        """Initial states (layers*directions,B,...) as those of the pieces: of a sequence's first piece, unless it
        begins anew, and in the second direction of its last one; zero for the others."""
        used = torch.zeros(directions, len(self.sequence), dtype=torch.bool, device=state.device)
        used[0, self.of_sequence[:, 0]] = self.goes_on
        used[1:, self.of_sequence[:, -1]] = True
        used = used.repeat(len(state) // directions, 1).view(len(state), -1, *(1,) * (state.dim() - 2))
        return state[:, self.sequence].masked_fill(~used, 0)

    def join_states(self, state, directions):
        """Last states (layers*directions,pieces,...) as (layers*directions,B,...): of a sequence's last piece, in the
        second direction of its first one."""
        ends = torch.stack([self.of_sequence[:, -1], self.of_sequence[:, 0]])[:directions]
        which = ends.repeat(len(state) // directions, 1)
        return state[torch.arange(len(state), device=state.device)[:, None], which]
