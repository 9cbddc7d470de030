"""fastrcn.convert: what it exchanges gives the same, keeps its objects and keys; what it cannot prove it leaves."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fastrcn
from fastrcn import convert
from fastrcn.interop import torch_nn, torchvision_raft
from tests.helpers.tolerances import assert_close
from tests.helpers.torchvision_models import models
from tests.interop.checks import results
from tests.interop.projects import RAFT, RVM, Automan000, Happyjin, JacobKimmel, Ndrplz, OpenSTL

pytestmark = pytest.mark.usefixtures("one_thread")


def maps(channels=3):
    return torch.randn(2, channels, 5, 4)


def sequence():
    return torch.randn(2, 3, 3, 5, 4)


# name: (module, inputs, file of the class that it becomes)
KNOWN = {
    "ndrplz": (lambda: Ndrplz.ConvLSTM(3, [4, 5], (3, 3), 2, True), lambda: [sequence()], "ndrplz"),
    "ndrplz cell": (lambda: Ndrplz.ConvLSTMCell(3, 4, (3, 3), True), lambda: [maps(), (maps(4), maps(4))], "ndrplz"),
    "automan000": (lambda: Automan000.ConvLSTM(3, [4, 6], 3, 3, [1, 2]), lambda: [maps()], "automan000"),
    "automan000 cell": (lambda: Automan000.ConvLSTMCell(3, 4, 3), lambda: [maps(), maps(4), maps(4)], "automan000"),
    "happyjin": (
        lambda: Happyjin.ConvGRU((5, 4), 3, [4], [(3, 3)], 1, torch.FloatTensor), lambda: [sequence()], "happyjin",
    ),
    "happyjin cell": (
        lambda: Happyjin.ConvGRUCell((5, 4), 3, 4, (3, 3), True, torch.FloatTensor), lambda: [maps(), maps(4)],
        "happyjin",
    ),
    "jacobkimmel": (lambda: JacobKimmel.ConvGRU(3, [4, 5], 3, 2), lambda: [maps(), None], "jacobkimmel"),
    "jacobkimmel cell": (lambda: JacobKimmel.ConvGRUCell(3, 4, 3), lambda: [maps(), maps(4)], "jacobkimmel"),
    "rvm": (lambda: RVM.ConvGRU(3), lambda: [sequence(), None], "rvm"),
    "raft": (lambda: RAFT.SepConvGRU(4, 3), lambda: [maps(4), maps()], "raft"),
    "raft small": (lambda: RAFT.ConvGRU(4, 3), lambda: [maps(4), maps()], "torchvision_raft"),  # the same but in name
    "openstl": (
        lambda: OpenSTL.ConvLSTMCell(3, 4, 5, 4, 3, 1, False), lambda: [maps(), maps(4), maps(4)], "openstl",
    ),
    "openstl with layer norm": (
        lambda: OpenSTL.ConvLSTMCell(3, 4, 5, 4, 3, 1, True), lambda: [maps(), maps(4), maps(4)], "openstl",
    ),
    "LSTM": (lambda: nn.LSTM(3, 512), lambda: [torch.randn(1, 2, 3)], "torch_nn"),
    "GRU": (lambda: nn.GRU(3, 4, batch_first=True), lambda: [torch.randn(5, 2, 3)], "torch_nn"),
    "RNN": (lambda: nn.RNN(3, 4, nonlinearity="relu"), lambda: [torch.randn(5, 2, 3)], "torch_nn"),
}  # fmt: skip


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.before, self.layer = nn.Identity(), layer

    def forward(self, *inputs):
        return self.layer(*inputs)


@pytest.mark.parametrize("name", KNOWN)
def test_known_layer(name):
    make, inputs, file = KNOWN[name]
    model, inputs = Model(make()), inputs()
    layer, parameters = model.layer, list(model.named_parameters())
    keys = list(model.state_dict())
    original = copy.deepcopy(model)
    random_state = torch.get_rng_state()
    with fastrcn.use_backend("cpu") if file == "openstl" else nullcontext():
        report = convert(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert str(report) == f"converted 1 layers, left 0\n  layer -> fastrcn.interop.{file}.{type(layer).__name__}"
    assert model.layer is layer
    assert list(model.state_dict()) == keys
    assert all(p is q for (_, p), (_, q) in zip(parameters, model.named_parameters(), strict=True))
    truth, structure = results(original, inputs, torch.float64)
    for changed in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found, same = results(changed, inputs, torch.float64)
        assert same == structure
        for key, value in truth.items():
            assert (value is None) == (found[key] is None)
            if value is not None:
                assert_close(found[key], value, key)
    assert len(convert(model)) == 0
    assert convert(model).left == []


def test_a_model_with_shared_layers_and_an_optimizer():
    shared = nn.GRU(4, 4)
    model = nn.ModuleDict(
        {"one": shared, "two": shared, "cells": nn.ModuleList([nn.RNN(3, 4)]), "last": nn.Linear(4, 1)}
    )

    def loss(x):
        x, _ = model["cells"][0](x)
        x, _ = model["two"](model["one"](x)[0])
        return model["last"](x).square().mean()

    x = torch.randn(5, 2, 3)
    before = copy.deepcopy(model.state_dict())
    found = []
    for change in (False, True):
        model.load_state_dict(before)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        if change:
            assert [r.modules for r in convert(model).replaced] == [("one", "two"), ("cells.0",)]
        for _ in range(3):
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()
        found.append(loss(x).detach())
    assert model["one"] is model["two"]
    assert_close(found[1], found[0])


def test_the_model_itself_and_hooks_around_it():
    layer, seen = nn.GRU(3, 4), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape))
    assert convert(layer).replaced[0].modules == ("GRU",)
    assert type(layer) is torch_nn.GRU
    layer(torch.randn(5, 2, 3))
    assert seen == [(5, 2, 4)]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_all_of_torch_where_a_backend_is_asked_for(kind):
    layer = getattr(nn, kind)(3, 4, **({"nonlinearity": "relu"} if "RNN" in kind else {}))
    inputs = [torch.randn(*(() if "Cell" in kind else (5,)), 2, 3)]
    truth, structure = results(copy.deepcopy(layer), inputs, torch.float64)
    with fastrcn.use_backend("cpu"):
        assert str(convert(layer).replaced[0]).endswith(f"fastrcn.interop.torch_nn.{kind}")
        found, same = results(layer, inputs, torch.float64)
        assert len(convert(layer)) == 0
    assert same == structure
    for key, value in truth.items():
        assert_close(found[key], value, key)


def test_fuse_after_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)))
            self.layer, self.last = Ndrplz.ConvLSTM(4, 4, (3, 3), 1, True), nn.GRU(4, 2, batch_first=True)

        def forward(self, x):
            [maps], _ = self.layer(self.head(x).transpose(1, 2))
            return self.last(maps.mean((3, 4)))[0]

    net = Net()
    x = torch.randn(2, 3, 4, 6, 6)
    truth = copy.deepcopy(net).double()(x.double())
    assert len(convert(net)) == 2
    assert len(fastrcn.fuse(net)) == 1
    assert_close(net(x), truth)


def test_torchvisions_raft():
    model = models.optical_flow.raft_small(weights=None).eval()
    block = model.update_block
    gru = copy.deepcopy(block.recurrent_block)
    report = convert(model)
    assert [r.modules for r in report.replaced] == [("update_block.recurrent_block",)]
    assert type(block.recurrent_block) is torchvision_raft.RecurrentBlock
    h, x = torch.randn(1, 96, 6, 5), torch.randn(1, 146, 6, 5)
    assert_close(block.recurrent_block(h, x), gru.double()(h.double(), x.double()))


def fork(module, **methods):
    """A module with the contents of another, of a class of the same name with these methods."""
    found = type(type(module).__name__, (nn.Module,), methods)()
    vars(found).update(vars(module))
    return found


class TestWhatIsLeft:
    """Modules that look like known ones."""

    def left(self, module, reason, others=0):
        kind = type(module)
        report = convert(Model(module))
        assert type(module) is kind
        assert len(report) == others
        assert [entry.modules for entry in report.left][:1] == [("layer",)]
        assert reason in report.left[0].reason, report.left[0].reason

    def test_other_order_of_gates(self):
        def forward(self, input_tensor, cur_state):
            h, c = cur_state
            i, f, g, o = self.conv(torch.cat([input_tensor, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c

        module = fork(Ndrplz.ConvLSTMCell(3, 4, (3, 3), True), forward=forward)
        self.left(module, "ndrplz: it has the structure, but computes something else")

    def test_other_use_of_the_update_gate(self):
        def forward(self, h, x):
            z, r = (torch.sigmoid(conv(torch.cat([h, x], 1))) for conv in (self.convz, self.convr))
            return z * h + (1 - z) * torch.tanh(self.convq(torch.cat([r * h, x], 1)))

        module = fork(RAFT.ConvGRU(4, 3), forward=forward)
        self.left(module, "torchvision_raft: it has the structure, but computes something else")

    def test_another_forget_bias(self):
        def forward(self, x_t, h_t, c_t):
            i, f, g, o = (self.conv_x(x_t) + self.conv_h(h_t)).chunk(4, 1)
            c = (f + self._forget_bias).sigmoid() * c_t + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c

        module = fork(OpenSTL.ConvLSTMCell(64, 64, 5, 4, 5, 1, False), forward=forward)
        self.left(module, "openstl: it has the structure, but computes something else")

    def test_other_structure_of_the_results(self):
        def forward(self, x_t, h_t, c_t):
            return list(OpenSTL.ConvLSTMCell.forward(self, x_t, h_t, c_t))

        module = fork(OpenSTL.ConvLSTMCell(3, 4, 5, 4, 3, 1, False), forward=forward)
        self.left(module, "openstl: it has the structure, but computes something else")

    def test_the_name_alone(self):
        kind = type("ConvLSTM", (nn.Linear,), {})
        self.left(kind(2, 3), "a ConvLSTM of none of ndrplz, automan000")

    def test_more_methods(self):
        module = fork(RAFT.SepConvGRU(4, 3), forward=RAFT.SepConvGRU.forward, warm_up=lambda self: None)
        self.left(module, "SepConvGRU also has warm_up, which would be lost")

    def test_more_arguments(self):
        def forward(self, h, x, mask=None):
            return RAFT.SepConvGRU.forward(self, h, x)

        module = fork(RAFT.SepConvGRU(4, 3), forward=forward)
        self.left(module, "expected the arguments ['self', 'h', 'x'], got ['self', 'h', 'x', 'mask=None']")

    @pytest.mark.parametrize("other", [lambda h: h.float(), lambda h: 0.5], ids=["type", "number"])
    def test_results_that_cannot_be_compared(self, other):
        def forward(self, h, x):
            return other(RAFT.SepConvGRU.forward(self, h, x))

        self.left(fork(RAFT.SepConvGRU(4, 3), forward=forward), "it could not be run to compare results")

    def test_what_cannot_run(self):
        def forward(self, h, x):
            raise NotImplementedError("not here")

        self.left(fork(RAFT.SepConvGRU(4, 3), forward=forward), "could not be run to compare results: not here")

    def test_a_subclass(self):
        kind = type("ConvLSTMCell", (OpenSTL.ConvLSTMCell,), {})
        self.left(kind(3, 4, 5, 4, 3, 1, False), "is derived from OpenSTL.ConvLSTMCell")

    def test_what_is_missing_here(self):
        self.left(RVM.ConvGRU(3, 3, 0), "padding: expected an odd kernel and half of it")

    def test_what_is_faster_as_it_is(self):
        self.left(OpenSTL.ConvLSTMCell(3, 4, 5, 4, 3, 1, True), "openstl: a single step, for which the project's own")

    @pytest.mark.parametrize("part", ["cell_list.0", "cell_list.0.conv"])
    def test_hooks_inside(self, part):
        """The cells, whose loop runs, are judged by themselves: a hook around one stays."""
        module = Ndrplz.ConvLSTM(3, 4, (3, 3), 2)
        module.get_submodule(part).register_forward_hook(lambda *_: None)
        self.left(module, f"{part} has hooks, which would no longer run", others=2 if part == "cell_list.0" else 1)
        module(sequence())

    def test_parametrizations(self):
        module = RVM.ConvGRU(3)
        parametrizations.weight_norm(module.hh[0])
        self.left(module, "expected the submodules")

    def test_other_options_of_a_convolution(self):
        module = RAFT.ConvGRU(4, 3)
        module.convq.dilation = (2, 2)
        self.left(module, "convq: expected Conv2d")

    def test_other_attributes(self):
        module = Ndrplz.ConvLSTM(3, 4, (3, 3), 1)
        module.clip = 5.0
        self.left(module, "ConvLSTM: expected the attributes", others=1)

    def test_an_own_forward(self):
        module = RVM.ConvGRU(3)
        module.forward = lambda x, h: (x, h)
        self.left(module, "ConvGRU: expected the attributes")
        gru = nn.GRU(3, 4)
        gru.forward = lambda x: x
        self.left(gru, "it has a forward of its own")

    def test_on_the_meta_device(self):
        self.left(RVM.ConvGRU(3).to("meta"), "meta device")

    def test_torch_layers(self):
        self.left(nn.LSTM(3, 512, proj_size=2), "proj_size=2: torch.nn's own code would run")
        kind = type("Mine", (nn.LSTM,), {})
        self.left(kind(3, 4), "a Mine, not exactly a torch.nn.LSTM, GRU or RNN, or one's cell")
        self.left(nn.LSTM(3, 511), "with 511 units torch.nn's own code would run, which is the faster one below 512")
        self.left(nn.GRU(3, 4).half(), "measured for float32 on cpu, this is float16 on cpu")
        self.left(nn.RNN(3, 4, device="meta"), "measured for float32 on cpu, this is float32 on meta")
        for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
            self.left(kind(3, 512), "a single step, for which torch.nn's own code is faster")

    def test_torch_layers_with_a_backend_asked_for(self):
        with fastrcn.use_backend("reference"):
            self.left(nn.LSTM(3, 512), "only the plain backend would run it")
            self.left(nn.RNNCell(3, 4, nonlinearity="relu"), "only the plain backend would run it")
        with fastrcn.use_backend("cpu"):
            self.left(nn.GRU(3, 4).half(), "only the plain backend would run it, and torch.nn's is faster")
            self.left(nn.LSTM(3, 4, proj_size=2), "proj_size=2: torch.nn's own code would run")

    def test_ours_are_no_business_of_it(self):
        model = nn.ModuleList(
            [fastrcn.ConvLSTM(3, 4), fastrcn.ConvGRUCell(3, 4), fastrcn.LSTM(3, 4), fastrcn.LSTMCell(3, 4)]
        )
        report = convert(model)
        assert str(report) == "converted 0 layers, left 0"


def test_errors():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        convert([nn.LSTM(3, 4)])
