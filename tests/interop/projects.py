"""Other projects' layers as loops over time, written from their conventions: what fastrcn.interop is judged by.

Names of classes, attributes and parameters are the projects'; they share nothing with the package.
"""

import torch
from torch import nn


def zeros(x, channels):
    return x.new_zeros(x.shape[0], channels, *x.shape[-2:])


class Ndrplz:
    class ConvLSTMCell(nn.Module):
        def __init__(self, input_dim, hidden_dim, kernel_size, bias):
            super().__init__()
            self.input_dim, self.hidden_dim, self.kernel_size, self.bias = input_dim, hidden_dim, kernel_size, bias
            self.padding = tuple(k // 2 for k in kernel_size)
            self.conv = nn.Conv2d(input_dim + hidden_dim, 4 * hidden_dim, kernel_size, padding=self.padding, bias=bias)

        def forward(self, input_tensor, cur_state):
            h, c = cur_state
            i, f, o, g = self.conv(torch.cat([input_tensor, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c

    class ConvLSTM(nn.Module):
        def __init__(self, input_dim, hidden_dim, kernel_size, num_layers, batch_first=False, bias=True,
                     return_all_layers=False):  # fmt: skip
            super().__init__()
            self.input_dim, self.num_layers, self.batch_first, self.bias = input_dim, num_layers, batch_first, bias
            self.hidden_dim = hidden_dim if isinstance(hidden_dim, list) else [hidden_dim] * num_layers
            self.kernel_size = kernel_size if isinstance(kernel_size, list) else [kernel_size] * num_layers
            self.return_all_layers = return_all_layers
            self.cell_list = nn.ModuleList()
            for k in range(num_layers):
                below = input_dim if k == 0 else self.hidden_dim[k - 1]
                self.cell_list.append(Ndrplz.ConvLSTMCell(below, self.hidden_dim[k], self.kernel_size[k], bias))

        def forward(self, input_tensor, hidden_state=None):
            steps = input_tensor.unbind(1 if self.batch_first else 0)
            outputs, last = [], []
            for k, cell in enumerate(self.cell_list):
                state = hidden_state[k] if hidden_state else [zeros(steps[0], cell.hidden_dim)] * 2
                found = []
                for x in steps:
                    state = cell(x, state)
                    found.append(state[0])
                steps = found
                outputs.append(torch.stack(found, 1))
                last.append(list(state))
            return (outputs, last) if self.return_all_layers else (outputs[-1:], last[-1:])


class Automan000:
    class ConvLSTMCell(nn.Module):
        def __init__(self, input_channels, hidden_channels, kernel_size, bias=True):
            super().__init__()
            self.input_channels, self.hidden_channels, self.kernel_size = input_channels, hidden_channels, kernel_size
            self.bias, self.num_features, self.padding = bias, 4, (kernel_size - 1) // 2
            for gate in "ifco":
                for side, channels in ((f"Wx{gate}", input_channels), (f"Wh{gate}", hidden_channels)):
                    conv = nn.Conv2d(channels, hidden_channels, kernel_size, padding=self.padding, bias="x" in side)
                    setattr(self, side, conv)
            self.Wci = self.Wcf = self.Wco = None

        def forward(self, x, h, c):
            peephole = [0 if w is None else w for w in (self.Wci, self.Wcf, self.Wco)]
            i = torch.sigmoid(self.Wxi(x) + self.Whi(h) + c * peephole[0])
            f = torch.sigmoid(self.Wxf(x) + self.Whf(h) + c * peephole[1])
            c = f * c + i * torch.tanh(self.Wxc(x) + self.Whc(h))
            return torch.sigmoid(self.Wxo(x) + self.Who(h) + c * peephole[2]) * c.tanh(), c

    class ConvLSTM(nn.Module):
        def __init__(self, input_channels, hidden_channels, kernel_size, step=1, effective_step=(1,), bias=True):
            super().__init__()
            self.input_channels, self.hidden_channels = [input_channels, *hidden_channels], hidden_channels
            self.kernel_size, self.num_layers, self.step, self.bias = kernel_size, len(hidden_channels), step, bias
            self.effective_step = list(effective_step)
            self._all_layers = []
            for k, channels in enumerate(hidden_channels):
                cell = Automan000.ConvLSTMCell(self.input_channels[k], channels, kernel_size, bias)
                setattr(self, f"cell{k}", cell)
                self._all_layers.append(cell)

        def forward(self, input):
            states, outputs = {}, []
            for step in range(self.step):
                x = input
                for k in range(self.num_layers):
                    cell = getattr(self, f"cell{k}")
                    if step == 0:
                        cell.Wci = cell.Wcf = cell.Wco = x.new_zeros(1, cell.hidden_channels, *x.shape[2:])
                        states[k] = (zeros(x, cell.hidden_channels),) * 2
                    states[k] = cell(x, *states[k])
                    x = states[k][0]
                if step in self.effective_step:
                    outputs.append(x)
            return outputs, states[self.num_layers - 1]


class Happyjin:
    class ConvGRUCell(nn.Module):
        def __init__(self, input_size, input_dim, hidden_dim, kernel_size, bias, dtype):
            super().__init__()
            self.height, self.width = input_size
            self.padding, self.hidden_dim = tuple(k // 2 for k in kernel_size), hidden_dim
            self.bias, self.dtype = bias, dtype
            both = input_dim + hidden_dim
            self.conv_gates = nn.Conv2d(both, 2 * hidden_dim, kernel_size, padding=self.padding, bias=bias)
            self.conv_can = nn.Conv2d(both, hidden_dim, kernel_size, padding=self.padding, bias=bias)

        def forward(self, input_tensor, h_cur):
            r, z = torch.sigmoid(self.conv_gates(torch.cat([input_tensor, h_cur], 1))).chunk(2, 1)
            n = torch.tanh(self.conv_can(torch.cat([input_tensor, r * h_cur], 1)))
            return (1 - z) * h_cur + z * n

    class ConvGRU(nn.Module):
        def __init__(self, input_size, input_dim, hidden_dim, kernel_size, num_layers, dtype, batch_first=False,
                     bias=True, return_all_layers=False):  # fmt: skip
            super().__init__()
            self.height, self.width = input_size
            self.input_dim, self.hidden_dim, self.kernel_size, self.dtype = input_dim, hidden_dim, kernel_size, dtype
            self.num_layers, self.batch_first, self.bias = num_layers, batch_first, bias
            self.return_all_layers = return_all_layers
            below = [input_dim, *hidden_dim]
            self.cell_list = nn.ModuleList(
                Happyjin.ConvGRUCell(input_size, below[k], hidden_dim[k], kernel_size[k], bias, dtype)
                for k in range(num_layers)
            )

        def forward(self, input_tensor, hidden_state=None):
            steps = input_tensor.unbind(1 if self.batch_first else 0)
            outputs, last = [], []
            for k, cell in enumerate(self.cell_list):
                h = hidden_state[k][0] if hidden_state else zeros(steps[0], cell.hidden_dim)
                found = []
                for x in steps:
                    h = cell(x, h)
                    found.append(h)
                steps = found
                outputs.append(torch.stack(found, 1))
                last.append([h])
            return (outputs, last) if self.return_all_layers else (outputs[-1:], last[-1:])


class JacobKimmel:
    class ConvGRUCell(nn.Module):
        def __init__(self, input_size, hidden_size, kernel_size):
            super().__init__()
            self.input_size, self.hidden_size = input_size, hidden_size
            for gate in ("reset_gate", "update_gate", "out_gate"):
                conv = nn.Conv2d(input_size + hidden_size, hidden_size, kernel_size, padding=kernel_size // 2)
                setattr(self, gate, conv)

        def forward(self, input_, prev_state):
            h = zeros(input_, self.hidden_size) if prev_state is None else prev_state
            both = torch.cat([input_, h], 1)
            z, r = self.update_gate(both).sigmoid(), self.reset_gate(both).sigmoid()
            n = self.out_gate(torch.cat([input_, h * r], 1)).tanh()
            return h * (1 - z) + n * z

    class ConvGRU(nn.Module):
        def __init__(self, input_size, hidden_sizes, kernel_sizes, n_layers):
            super().__init__()
            self.input_size, self.n_layers = input_size, n_layers
            self.hidden_sizes = hidden_sizes if isinstance(hidden_sizes, list) else [hidden_sizes] * n_layers
            self.kernel_sizes = kernel_sizes if isinstance(kernel_sizes, list) else [kernel_sizes] * n_layers
            self.cells = []
            for k in range(n_layers):
                below = input_size if k == 0 else self.hidden_sizes[k - 1]
                self.cells.append(JacobKimmel.ConvGRUCell(below, self.hidden_sizes[k], self.kernel_sizes[k]))
                setattr(self, f"ConvGRUCell_{k:02d}", self.cells[k])

        def forward(self, x, hidden=None):
            found = []
            for cell, h in zip(self.cells, hidden or [None] * self.n_layers, strict=True):
                x = cell(x, h)
                found.append(x)
            return found


class RVM:
    class ConvGRU(nn.Module):
        def __init__(self, channels, kernel_size=3, padding=1):
            super().__init__()
            self.channels = channels
            self.ih = nn.Sequential(nn.Conv2d(channels * 2, channels * 2, kernel_size, padding=padding), nn.Sigmoid())
            self.hh = nn.Sequential(nn.Conv2d(channels * 2, channels, kernel_size, padding=padding), nn.Tanh())

        def forward_single_frame(self, x, h):
            r, z = self.ih(torch.cat([x, h], 1)).chunk(2, 1)
            h = (1 - z) * h + z * self.hh(torch.cat([x, r * h], 1))
            return h, h

        def forward_time_series(self, x, h):
            found = []
            for frame in x.unbind(1):
                o, h = self.forward_single_frame(frame, h)
                found.append(o)
            return torch.stack(found, 1), h

        def forward(self, x, h):
            h = zeros(x, self.channels) if h is None else h
            return self.forward_single_frame(x, h) if x.ndim == 4 else self.forward_time_series(x, h)


def raft_step(h, x, z, r, q):
    both = torch.cat([h, x], 1)
    z, r = z(both).sigmoid(), r(both).sigmoid()
    return (1 - z) * h + z * q(torch.cat([r * h, x], 1)).tanh()


class RAFT:
    class ConvGRU(nn.Module):
        def __init__(self, hidden_dim=128, input_dim=320):
            super().__init__()
            for name in "zrq":
                setattr(self, f"conv{name}", nn.Conv2d(hidden_dim + input_dim, hidden_dim, 3, padding=1))

        def forward(self, h, x):
            return raft_step(h, x, self.convz, self.convr, self.convq)

    class SepConvGRU(nn.Module):
        def __init__(self, hidden_dim=128, input_dim=320):
            super().__init__()
            for number, kernel in ((1, (1, 5)), (2, (5, 1))):
                padding = tuple(k // 2 for k in kernel)
                for name in "zrq":
                    conv = nn.Conv2d(hidden_dim + input_dim, hidden_dim, kernel, padding=padding)
                    setattr(self, f"conv{name}{number}", conv)

        def forward(self, h, x):
            h = raft_step(h, x, self.convz1, self.convr1, self.convq1)
            return raft_step(h, x, self.convz2, self.convr2, self.convq2)


class OpenSTL:
    class ConvLSTMCell(nn.Module):
        def __init__(self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm):
            super().__init__()
            self.num_hidden, self.padding, self._forget_bias = num_hidden, filter_size // 2, 1.0

            def conv(inputs, outputs):
                parts = [nn.Conv2d(inputs, outputs, filter_size, stride, self.padding, bias=False)]
                return nn.Sequential(*parts, *([nn.LayerNorm([outputs, height, width])] if layer_norm else []))

            self.conv_x, self.conv_h = conv(in_channel, num_hidden * 4), conv(num_hidden, num_hidden * 4)
            self.conv_o = conv(num_hidden * 2, num_hidden)
            self.conv_last = nn.Conv2d(num_hidden * 2, num_hidden, 1, bias=False)

        def forward(self, x_t, h_t, c_t):
            i, f, g, o = (self.conv_x(x_t) + self.conv_h(h_t)).chunk(4, 1)
            c = f.sigmoid() * c_t + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c
