"""Pickles of the layers of one version of fastrcn, for later versions to load; run with that version's package.

git worktree add OLD COMMIT; PYTHONPATH=OLD python tests/compilers/make_pickles.py tests/compilers/pickles/COMMIT.pt.gz
"""

import gzip
import sys

import torch
from torch import nn

import fastrcn


def _conv3d():
    return nn.Sequential(
        fastrcn.ConvReLUPool3d(1, 2, 3, padding=1, pool_kernel_size=(1, 2, 2)),
        fastrcn.ConvBNReLUPool3d(2, 2, 1, bias=False),
        fastrcn.BatchNormReLUPool3d(2, pool_kernel_size=2),
    )


_NOISE = {"zoneout": 0.25, "zoneout_cell": 0.5, "recurrent_dropout": 0.5}
_MAPS, _STEP, _VECTORS, _CLIP = (3, 2, 1, 2, 3), (2, 1, 2, 3), (3, 2, 1), (1, 1, 4, 4, 4)

LAYERS = {
    "maps": [
        (lambda: fastrcn.ConvLSTM(1, 2, peephole="channel", num_layers=2), _MAPS, {}),
        (lambda: fastrcn.ConvLSTM(1, 2, peephole="full", map_size=(2, 3), bias=False), _MAPS, {}),
        (lambda: fastrcn.ConvGRU(1, 2, stride=2, batch_first=True), _MAPS, {}),
        (lambda: fastrcn.ConvRNN(1, 2, nonlinearity="relu"), _MAPS, {}),
    ],
    "steps": [(lambda: fastrcn.ConvLSTMCell(1, 2), _STEP, {}), (lambda: fastrcn.ConvGRUCell(1, 2), _STEP, {})],
    "vectors": [
        (lambda: fastrcn.LSTM(1, 2, 2), _VECTORS, {}),
        (lambda: fastrcn.GRU(1, 2, reset="after"), _VECTORS, {}),
        (lambda: fastrcn.RNN(1, 2), _VECTORS, {}),
        (lambda: fastrcn.LSTMCell(1, 2), (2, 1), {}),
    ],
    "interop": [
        (lambda: fastrcn.interop.ndrplz.ConvLSTM(1, 2, (3, 3), 1), _MAPS, {}),
        (lambda: fastrcn.interop.torch_nn.GRU(1, 2), _VECTORS, {}),
    ],
    "conv3d": [(_conv3d, _CLIP, {})],
    "bidirectional": [(lambda: fastrcn.ConvLSTM(1, 2, bidirectional=True), _MAPS, {})],
    "lengths": [(lambda: fastrcn.ConvGRU(1, 2, recompute=True), _MAPS, {"lengths": [3, 1]})],
    "reset": [
        (lambda: fastrcn.ConvLSTM(1, 2), _MAPS, {"reset": torch.tensor([[0, 0], [0, 1], [1, 0]], dtype=torch.bool)})
    ],
    "noise": [(lambda: fastrcn.ConvLSTM(1, 2, num_layers=2, dropout=0.5, **_NOISE), _MAPS, {})],
}
"""For each column of the table: functions that make a layer, the shape of its input, other arguments."""


def _recorded(make, shape, options):
    torch.manual_seed(0)
    module = make().double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randint(-8, 9, p.shape) / 16)  # such numbers make a small file
        x = torch.randint(-16, 17, shape).double() / 16
        return {
            "module": module, "state": module.state_dict(), "input": x, "options": options,
            "output": module(x, **options),
        }  # fmt: skip


def main(path):
    missing = [] if hasattr(fastrcn, "interop") else ["interop", "reset", "noise"]  # which came later
    record = {
        column: [_recorded(*layer) for layer in layers] for column, layers in LAYERS.items() if column not in missing
    }
    with gzip.open(path, "wb") as file:
        torch.save(record, file)


if __name__ == "__main__":
    main(sys.argv[1])
