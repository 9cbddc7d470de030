"""Rung 4: what PyTorch asks of an operator: opcheck of its schema, its fake form, its gradients, its tracing."""

from dataclasses import replace

import pytest
import torch

from fastrcn import native
from fastrcn.cells import Zoneout
from tests.helpers.cells import SUBJECTS, Case, make_tensors

SMALL = Case(steps=3, batch=2, inputs=2, channels=3, height=4, width=3)


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "stacked"])
@pytest.mark.parametrize("save", [0, 1, 2])
def test_opcheck(name, save):
    opcheck(name, save, SMALL, torch.float64)


@pytest.mark.parametrize("sizes", [(2, 3), (9, 3), (2, 9)], ids="{0[0]}_to_{0[1]}".format)
@pytest.mark.parametrize("library", [None, False, True], ids=["this_processor", "without_library", "library"])
def test_opcheck_in_bfloat16(sizes, library, monkeypatch):
    """What is saved is float32 where the call is computed so: with few channels, or without oneDNN's convolution."""
    if library is not None:
        monkeypatch.setattr(native, "convolves_bfloat16", lambda: False)
        monkeypatch.setattr(native, "has_bfloat16_convolution", lambda: library)
    inputs, channels = sizes
    for name in ("lstm_channel", "stacked"):
        opcheck(name, 2, replace(SMALL, inputs=inputs, channels=channels), torch.bfloat16)


def opcheck(name, save, case, dtype):
    subject = SUBJECTS[name]
    t = {n: v.detach() for n, v in make_tensors(subject, case, dtype).items()}
    inputs = [t["x"], t["below"]] if subject.below else [t["x"]]
    weights = [t["weight_ih"], t["weight_bh"]] if subject.below else [t["weight_ih"]]
    hx = [t[n] for n in ("h0", "c0")[: subject.states]]
    common = (inputs, weights, t["weight_hh"], t["bias"], t.get("weight_ch"), hx, [], torch.tensor([3, 1]))
    options = ([1, 1], [1, 1], None, False)
    forward = ("cpu", subject.cell.key, *common, *options, save)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_fwd.default, forward).values()) == {"SUCCESS"}
    if not save:
        return
    output, *rest = torch.ops.fastrcn.conv_recurrent_fwd(*forward)
    grads = [torch.ones_like(output), *(None for _ in range(subject.states))]
    needs = [True] * len(inputs + weights) + [True, True, "weight_ch" in t] + [True] * len(hx)
    backward = ("cpu", subject.cell.key, grads, *common, output, rest[subject.states :], *options, needs)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_bwd.default, backward).values()) == {"SUCCESS"}


def test_opcheck_with_masks_and_padding():
    subject, cell = SUBJECTS["gru_before"], Zoneout(SUBJECTS["gru_before"].cell)
    case = replace(SMALL, padding=(0, 0))
    t = {n: v.detach() for n, v in make_tensors(subject, case).items()}
    masks = [torch.rand(case.steps, case.batch, case.channels, *case.map).double().round()]
    common = ([t["x"]], [t["weight_ih"]], t["weight_hh"], t["bias"], None, [t["h0"]], masks, None)
    options = ([1, 1], [1, 1], [0, 0], False)
    forward = ("cpu", cell.key, *common, *options, 2)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_fwd.default, forward).values()) == {"SUCCESS"}
    output, *rest = torch.ops.fastrcn.conv_recurrent_fwd(*forward)
    grads, needs = [torch.ones_like(output), None], [True] * 4 + [False, True, False]
    backward = ("cpu", cell.key, grads, *common, output, rest[1:], *options, needs)
    assert set(torch.library.opcheck(torch.ops.fastrcn.conv_recurrent_bwd.default, backward).values()) == {"SUCCESS"}


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("name", ["lstm_channel", "gru_before", "stacked"])
def test_opcheck_of_what_exported_programs_hold(name, differentiated):
    subject = SUBJECTS[name]
    t = {n: v.detach().requires_grad_(differentiated) for n, v in make_tensors(subject, SMALL).items()}
    inputs = [t["x"], t["below"]] if subject.below else [t["x"]]
    weights = [t["weight_ih"], t["weight_bh"]] if subject.below else [t["weight_ih"]]
    hx = [t[n] for n in ("h0", "c0")[: subject.states]]
    tensors = (inputs, weights, t["weight_hh"], t["bias"], t.get("weight_ch"), hx, [], torch.tensor([3, 1]))
    arguments = (subject.cell.key, *tensors, [1, 1], [1, 1], None, True, False, None)
    found = torch.library.opcheck(torch.ops.fastrcn.conv_recurrent.default, arguments)
    assert set(found.values()) == {"SUCCESS"}
