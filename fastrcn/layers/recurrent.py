"""The layer behind all recurrent layers, and one step of it: stacking, directions; the math is the cell's."""

import warnings
from typing import Any

import torch
from torch import nn

from fastrcn.checks import check_kernel, check_lengths
from fastrcn.compiler.schedule import schedule_of
from fastrcn.functional import conv_recurrent, conv_recurrent_both
from fastrcn.layers.pieces import check_reset, cut_before
from fastrcn.layers.weights import Weights, positive

_AXES = ("features", "C,L", "C,H,W", "C,D,H,W")


def _with_cell(layer, kind, text):
    """``extra_repr``'s text with the cell, of a layer whose class does not tell it: ``kind`` itself."""
    return f"{layer.cell!r}, {text}" if type(layer) is kind else text


class ConvRecurrent(Weights):
    """A recurrent convolutional layer of any cell.

    Args:
        cell: a ``fastrcn.cells.Cell``.
        input_size: channels of the input; a tuple for a cell with several inputs; 0 for none (the first layer then
            has no input weights and takes (T,B,0,H,W)).
        hidden_size: channels C of the state.
        kernel_size, recurrent_kernel_size: odd ints or pairs; the second defaults to the first. The first may be even
            where ``padding`` is not "same" and there is one layer.
        num_layers: stacked layers; each reads the output of the one below.
        bias, batch_first, dropout, bidirectional: as in ``torch.nn.LSTM``.
        stride, dilation, padding: of the input convolution; stride and padding belong to the first layer. ``padding``
            is "same" (keeps the map at stride 1), "valid" (none, as in Keras), an int or a pair; the recurrent
            convolution keeps the map that comes out, and so do further layers.
        peephole: "channel" or "full" for a cell with peepholes; "full" needs ``map_size`` (H,W) of the hidden map.
        layer_norm: "channel" or "full" normalises what the input's convolution gives, over all gates, channels and the
            map of an image, and what the recurrent ones give likewise (Ba et al. 2016, arXiv 1607.06450); the learned
            factors ``norm_ih_l0`` and ``norm_hh_l0`` are one per channel, or full maps, as the bias then is, which need
            ``map_size``. ``layer_norm_eps`` is added to the variance. Its stages are compiled for LSTMs, GRUs and RNNs
            with tanh; other cells run PyTorch code there until ``fastrcn.compile_cell``.
        backend: name of the backend to run on; None for the best that can.
        zoneout, zoneout_cell: probabilities with which each unit of the first state, and of the others (c), keeps its
            value of the step before (Krueger et al. 2017, arXiv 1606.01305); in evaluation the expectation.
        recurrent_dropout: probability with which each unit of the state is zero in what the recurrent convolutions
            read, the others scaled up; one mask for all gates and all steps of a call (Gal and Ghahramani 2016,
            arXiv 1512.05287). Masks need as much memory as the output, for each state with zoneout, and one step's.
        recompute: keep only the states for backward, a third of the memory for a little more time.
    Shapes:
        input (T,B,Cin,H,W), or (B,T,Cin,H,W) with ``batch_first``, or unbatched (T,Cin,H,W); a tuple of such for a cell
        with several inputs. Output (T,B,D*C,H',W') likewise, D the number of directions. States
        (num_layers*D,B,C,H',W') whatever ``batch_first``: a tensor for a cell with one state, else a tuple.
    Raises:
        ValueError, TypeError or RuntimeError naming the argument, what was expected and what came.
    """

    def __init__(
        self, cell, input_size, hidden_size, kernel_size=3, num_layers=1, *, bias=True, batch_first=False, dropout=0.0,
        bidirectional=False, recurrent_kernel_size=None, stride=1, dilation=1, padding="same", peephole=None,
        map_size=None, layer_norm=None, layer_norm_eps=1e-5, zoneout=0.0, zoneout_cell=0.0, recurrent_dropout=0.0,
        backend=None, recompute=False, device=None, dtype=None, _axes=2,
    ):  # fmt: skip
        super().__init__(
            cell, input_size, hidden_size, kernel_size, recurrent_kernel_size, bias=bias, stride=stride,
            dilation=dilation, padding=padding, peephole=peephole, map_size=map_size, layer_norm=layer_norm,
            layer_norm_eps=layer_norm_eps, backend=backend, zoneout=zoneout, zoneout_cell=zoneout_cell,
            recurrent_dropout=recurrent_dropout, axes=_axes,
        )  # fmt: skip
        self.num_layers = positive(num_layers, "num_layers")
        if num_layers > 1:
            check_kernel(self.kernel_size, "kernel_size")  # further layers keep the map
        if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability from 0 to 1, got {dropout!r}")
        if dropout and num_layers == 1:
            warnings.warn(f"dropout: {dropout} has no effect, it acts between layers and num_layers is 1", stacklevel=3)
        if len(self._inputs) > 1 and num_layers > 1:
            raise ValueError(f"num_layers: expected 1 for a cell with the inputs {self._inputs}, got {num_layers}")
        self.batch_first, self.dropout, self.bidirectional = bool(batch_first), float(dropout), bool(bidirectional)
        self.recompute = bool(recompute)
        first = tuple(input_size) if isinstance(input_size, (tuple, list)) else (input_size,)
        for layer in range(num_layers):
            sizes = first if layer == 0 else (hidden_size * self._directions,)
            for direction in range(self._directions):
                self._create(self._suffix(layer, direction), sizes, {"device": device, "dtype": dtype})
        self.reset_parameters()

    @property
    def _directions(self):
        return 2 if self.bidirectional else 1

    @staticmethod
    def _suffix(layer, direction):
        return f"_l{layer}" + ("_reverse" if direction else "")

    def forward(self, input, hx=None, *, lengths=None, reset=None):
        """Run over a sequence.

        Args:
            input: see the class.
            hx: initial states, as the states that are returned; zeros if None.
            lengths: (B,) ints. Past its length a sequence's state is frozen and its output zero, in both directions.
                Values in a list or on the CPU are checked here. Those on CUDA the host does not read, so that it need
                not wait and a CUDA graph can hold the call: wrong ones end in a device-side assertion, as wrong indices
                do in PyTorch.
            reset: (T,B) booleans, (B,T) with ``batch_first``. Where one is True another sequence begins: the states of
                all layers are zero before that step is taken, whatever ``hx`` says, and those of the second direction
                after it, before the step that lies earlier is taken; no gradient passes. Without effect past a
                sequence's length. The pieces between run as one batch, padded to the longest: resets at even distances
                cost nothing, k at uneven ones at most k + 1 times a pass without. Read on the host: not for
                ``torch.compile(fullgraph=True)``, export and ``vmap``.
        Returns:
            output, and the states after the last step (of the second direction: after the first).
        """
        inputs = (input,) if isinstance(input, torch.Tensor) else tuple(input)
        rank, axes = 3 + self.axes, _AXES[self.axes]
        for x in inputs:
            if not isinstance(x, torch.Tensor) or x.dim() not in (rank - 1, rank):
                came = f"shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
                order = "B,T" if self.batch_first else "T,B"
                raise ValueError(f"input: expected ({order},{axes}) or unbatched (T,{axes}), got {came}")
        unbatched = inputs[0].dim() == rank - 1
        if unbatched and lengths is not None:
            raise ValueError("lengths: expected None with unbatched input; cut the sequence instead")
        if unbatched and reset is not None:
            raise ValueError("reset: expected None with unbatched input; cut the sequence instead")
        axis = 0 if self.batch_first else 1
        inputs = tuple(x.unsqueeze(axis) if unbatched else x for x in inputs)
        if self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        self._check_map(inputs[0])
        inputs = tuple(self._widened(x) for x in inputs)
        states: Any = self._initial(hx, inputs[0], unbatched)
        if reset is None:
            output, states = self._layers(inputs, states, lengths)
        else:
            output, states = self._pieces(inputs, states, lengths, reset)
        output, states = self._narrowed(output), tuple(self._narrowed(s) for s in states)
        if self.batch_first:
            output = output.transpose(0, 1)
        if unbatched:
            output, states = output.squeeze(axis), tuple(s.squeeze(1) for s in states)
        return output, states if len(states) > 1 else states[0]

    def _initial(self, hx, input, unbatched):
        """The given states as a tuple of (layers*directions,B,C,H,W); None if none are given."""
        if hx is None:
            return None
        names = schedule_of(self.cell.key).states
        given = (hx,) if isinstance(hx, torch.Tensor) else tuple(hx)
        if len(given) != len(names):
            raise ValueError(f"hx: expected {len(names)} states ({', '.join(s.name for s in names)}), got {len(given)}")
        lead = (self.num_layers * self._directions,) + (() if unbatched else (input.shape[1],))
        tail = (self.hidden_size, *self._of_caller(self._map(input)))
        for name, state in zip(names, given, strict=True):
            if tuple(state.shape) != lead + tail:
                raise ValueError(f"hx ({name}): expected shape {lead + tail}, got {tuple(state.shape)}")
        given = tuple(s.unsqueeze(1) if unbatched else s for s in given)
        return tuple(self._widened(s) for s in given)

    def _pieces(self, inputs, states, lengths, reset):
        """``_layers`` of the sequences between resets."""
        if torch.compiler.is_exporting():
            raise RuntimeError(
                "reset: expected None in an exported program, in whose shapes the places of the cuts would be fixed; "
                "cut the sequences before they are given to it"
            )
        steps, batch = inputs[0].shape[:2]
        if any(x.shape[:2] != inputs[0].shape[:2] for x in inputs) or not steps:
            shapes = [tuple(x.shape) for x in inputs]
            raise ValueError(f"input: expected at least one step, and equally many of each input, got {shapes}")
        reset = check_reset(reset, steps, batch, self.batch_first).to(inputs[0].device)
        pieces: Any = cut_before(reset, None if lengths is None else check_lengths(lengths, inputs[0]))
        if states is not None:
            states = tuple(pieces.cut_states(s, self._directions) for s in states)
        output, states = self._layers(tuple(pieces.cut(x) for x in inputs), states, pieces.lengths)
        return pieces.join(output), tuple(pieces.join_states(s, self._directions) for s in states)

    def _layers(self, inputs, states, lengths):
        finals: list[tuple[Any, ...]] = []
        cell, first = self._noise.cell(self.training), inputs[0]
        for layer in range(self.num_layers):
            own, masks = [], [self._masks(first) for _ in range(self._directions)]
            for direction in range(self._directions):
                index = layer * self._directions + direction
                hx = None if states is None else tuple(s[index] for s in states)
                own.append((*self._arguments(self._suffix(layer, direction)), hx))
            options: Any = {
                "stride": self.stride if layer == 0 else 1, "dilation": self.dilation,
                "padding": self.padding if layer == 0 else "same", "lengths": lengths,
                "recompute": self.recompute, "backend": self.backend,
            }  # fmt: skip
            if self.bidirectional:
                results = conv_recurrent_both(cell, inputs, *own, masks=masks, **options)
                output = torch.cat([output for output, _ in results], dim=2)
            else:
                results = [conv_recurrent(cell, inputs, *own[0], masks=masks[0], **options)]
                output = results[0][0]
            finals += [last for _, last in results]
            if self.dropout and self.training and layer + 1 < self.num_layers:
                output = nn.functional.dropout(output, self.dropout)
            inputs = (output,)
        if len(finals) == 1:
            return output, tuple(state.unsqueeze(0) for state in finals[0])
        return output, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def extra_repr(self):
        text = _with_cell(self, ConvRecurrent, super().extra_repr())
        for name, usual in (
            ("num_layers", 1), ("batch_first", False), ("dropout", 0.0), ("bidirectional", False), ("recompute", False)
        ):  # fmt: skip
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)!r}"
        return text


class ConvRecurrentCell(Weights):
    """One step of any cell, for streaming. Arguments as ``ConvRecurrent``; weights are named without a suffix. There is
    no recurrent dropout, whose mask spans steps.

    Shapes: input (B,Cin,H,W) or unbatched (Cin,H,W); states (B,C,H',W') or (C,H',W'): a tensor for a cell with one
    state, else a tuple.
    """

    def __init__(
        self, cell, input_size, hidden_size, kernel_size=3, *, bias=True, recurrent_kernel_size=None, stride=1,
        dilation=1, padding="same", peephole=None, map_size=None, layer_norm=None, layer_norm_eps=1e-5, zoneout=0.0,
        zoneout_cell=0.0, backend=None, device=None, dtype=None, _axes=2,
    ):  # fmt: skip
        super().__init__(
            cell, input_size, hidden_size, kernel_size, recurrent_kernel_size, bias=bias, stride=stride,
            dilation=dilation, padding=padding, peephole=peephole, map_size=map_size, layer_norm=layer_norm,
            layer_norm_eps=layer_norm_eps, backend=backend, zoneout=zoneout, zoneout_cell=zoneout_cell, axes=_axes,
        )  # fmt: skip
        sizes = tuple(input_size) if isinstance(input_size, (tuple, list)) else (input_size,)
        self._create("", sizes, {"device": device, "dtype": dtype})
        self.reset_parameters()

    def forward(self, input, hx=None):
        """One step; returns the new state, or the tuple of new states."""
        inputs = (input,) if isinstance(input, torch.Tensor) else tuple(input)
        rank, axes = 2 + self.axes, _AXES[self.axes]
        for x in inputs:
            if not isinstance(x, torch.Tensor) or x.dim() not in (rank - 1, rank):
                came = f"shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
                raise ValueError(f"input: expected (B,{axes}) or unbatched ({axes}), got {came}")
        unbatched = inputs[0].dim() == rank - 1
        states: Any = None if hx is None else (hx,) if isinstance(hx, torch.Tensor) else tuple(hx)

        def maps(tensors):
            tensors = tuple(t[None] for t in tensors) if unbatched else tensors
            return tuple(self._widened(t) for t in tensors)

        self._check_map(inputs[0])
        last: Any
        weight_ih, weight_hh, bias, weight_ch = self._arguments("")
        inputs = tuple(x[None] for x in maps(inputs))
        _, last = conv_recurrent(
            self._noise.cell(self.training), inputs, weight_ih, weight_hh, bias, weight_ch,
            None if states is None else maps(states), masks=self._masks(inputs[0]), stride=self.stride,
            dilation=self.dilation, padding=self.padding, backend=self.backend,
        )  # fmt: skip
        last = tuple(self._narrowed(s) for s in last)
        if unbatched:
            last = tuple(s[0] for s in last)
        return last if len(last) > 1 else last[0]

    def extra_repr(self):
        return _with_cell(self, ConvRecurrentCell, super().extra_repr())
