"""fastrcn.fuse: what it exchanges in a model, what it leaves and why, and that nothing else changes."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import fastrcn
from fastrcn.layers.conv3d import FusedConv3d
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(2, 3, 6, 12, 11, generator=torch.Generator().manual_seed(0))


def check_equal(fused, plain, x=X, buffers=True):
    """Outputs, all gradients and buffers, in training and evaluation."""
    for training in (True, False):
        results = []
        for model in (fused, plain):
            model.train(training)
            value = x.double().requires_grad_()
            output = model.double()(value)
            weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
            leaves = [value, *model.parameters()]
            grads = torch.autograd.grad((output * weight).sum(), leaves, allow_unused=True)
            results.append([output, *grads, *(b.double() for b in model.buffers())])
        for a, b in zip(*results, strict=True):
            # A bias before a normalisation has no gradient but for rounding.
            if b is None or b.abs().max() < 1e-9:
                assert a is None or a.abs().max() < 1e-9
            else:
                assert_close(a, b, dtype=torch.float64)


def fuse_and_check(model, chains, x=X):
    """Fuse; the keys, the parameters and what is computed stay, and a second time nothing is left to do."""
    plain = copy.deepcopy(model)
    kind, parameters, keys = type(model), list(model.parameters()), list(model.state_dict())
    report = fastrcn.fuse(model)
    assert [entry.modules for entry in report.replaced] == chains, str(report)
    assert len(report) == len(chains)
    assert type(model) is kind
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    again = fastrcn.fuse(model)
    assert not again.replaced
    check_equal(model, plain, x)
    return report


class C3D(nn.Module):
    """The five groups of C3D with few channels, one ReLU module for all, as in the usual ports."""

    def __init__(self, pool5="ceil"):
        super().__init__()
        for name, inputs, outputs in (
            ("1", 3, 4), ("2", 4, 6), ("3a", 6, 8), ("3b", 8, 8), ("4a", 8, 6), ("4b", 6, 6),
            ("5a", 6, 6), ("5b", 6, 6),
        ):  # fmt: skip
            self.add_module(f"conv{name}", nn.Conv3d(inputs, outputs, 3, padding=1))
        self.pool1 = nn.MaxPool3d((1, 2, 2), (1, 2, 2))
        self.pool2, self.pool3, self.pool4 = (nn.MaxPool3d(2, 2) for _ in range(3))
        last = {"ceil_mode": True} if pool5 == "ceil" else {"padding": (0, 1, 1)}
        self.pool5 = nn.MaxPool3d(2, 2, **last)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(6 * 2 * 2, 5)

    def features(self, x):
        x = self.pool1(self.relu(self.conv1(x)))
        x = self.pool2(self.relu(self.conv2(x)))
        x = self.pool3(self.relu(self.conv3b(self.relu(self.conv3a(x)))))
        x = self.pool4(self.relu(self.conv4b(self.relu(self.conv4a(x)))))
        return self.pool5(self.relu(self.conv5b(self.relu(self.conv5a(x)))))

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


@pytest.mark.parametrize("pool5", ["ceil", "pad"])
def test_c3d(pool5):
    model = C3D(pool5)
    x = torch.randn(1, 3, 16, 48, 48)
    chains = [("conv1", "pool1"), ("conv2", "pool2"), ("conv3b", "pool3"), ("conv4b", "pool4"), ("conv5b", "pool5")]
    report = fuse_and_check(model, chains, x)
    assert isinstance(model.conv1, FusedConv3d)
    assert type(model.pool1) is nn.Identity
    assert type(model.relu) is nn.ReLU
    assert "relu is called 8 times: it stays" in report.replaced[0].note
    assert [entry.modules[0] for entry in report.left] == ["conv3a", "conv4a", "conv5a"]
    assert model.float().features(x).shape == (1, 6, 1, 2, 2)
    text = str(report)
    assert "conv1, pool1 -> FusedConv3d" in text
    assert "left conv3a, relu: relu is called 8 times, and there is no max-pooling to absorb" in text


class Unit3D(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, relu=True):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)
        self.relu = nn.ReLU(inplace=True) if relu else None

    def forward(self, x):
        x = self.bn(self.conv3d(x))
        return x if self.relu is None else self.relu(x)


class Mixed(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.b0 = Unit3D(inputs, 4, 1)
        self.b1 = nn.Sequential(Unit3D(inputs, 4, 1), Unit3D(4, 6, 3))
        self.b3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), Unit3D(inputs, 3, 1))

    def forward(self, x):
        return torch.cat([self.b0(x), self.b1(x), self.b3(x)], 1)


def test_i3d():
    model = nn.Sequential()
    model.add_module("conv_1a", Unit3D(3, 6, 7, 2))
    model.add_module("pool_2a", nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    model.add_module("conv_2b", Unit3D(6, 6, 1))
    model.add_module("conv_2c", Unit3D(6, 8, 3))
    model.add_module("pool_3a", nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    model.add_module("mixed_3b", Mixed(8))
    model.add_module("pool_4a", nn.MaxPool3d(3, 2, 1))
    model.add_module("logits", Unit3D(13, 2, 1, relu=False))
    chains = [
        ("conv_1a.bn", "conv_1a.relu", "pool_2a"),
        ("conv_2b.bn", "conv_2b.relu"),
        ("conv_2c.bn", "conv_2c.relu", "pool_3a"),
        ("mixed_3b.b0.bn", "mixed_3b.b0.relu"),
        ("mixed_3b.b1.0.bn", "mixed_3b.b1.0.relu"),
        ("mixed_3b.b1.1.bn", "mixed_3b.b1.1.relu"),
        ("mixed_3b.b3.1.bn", "mixed_3b.b3.1.relu"),
    ]
    report = fuse_and_check(model, chains, torch.randn(2, 3, 8, 34, 29))
    assert not report.left
    assert isinstance(model.conv_1a.bn, fastrcn.BatchNormReLUPool3d)
    assert type(model.conv_1a.conv3d) is FusedConv3d


def chain(*modules):
    return nn.Sequential(nn.Conv3d(3, 4, 3), *modules)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (chain(nn.ReLU(), nn.MaxPool3d(2)), "012"),
        (chain(nn.ReLU(inplace=True)), "01"),
        (chain(nn.BatchNorm3d(4), nn.ReLU(True), nn.MaxPool3d(3, 2, 1)), "123"),
        (chain(nn.BatchNorm3d(4, track_running_stats=False), nn.ReLU()), "12"),
        (chain(nn.BatchNorm3d(4, affine=False, momentum=None), nn.ReLU(), nn.MaxPool3d(2, ceil_mode=True)), "123"),
        (nn.Sequential(nn.Conv3d(3, 4, 3, padding=1, padding_mode="replicate"), nn.ReLU(), nn.MaxPool3d(2)), "012"),
        (nn.Sequential(nn.Conv3d(3, 4, 3, padding="same", bias=False), nn.ReLU(), nn.Dropout(0.0)), "01"),
        (nn.Sequential(nn.BatchNorm3d(3), nn.ReLU(), nn.MaxPool3d(2)), "012"),
    ],
)
def test_sequential(model, names):
    fuse_and_check(model, [tuple(names)])


def test_nested_sequential_and_frozen_statistics():
    inner = nn.Sequential(nn.ReLU(), nn.Sequential(nn.MaxPool3d((1, 2, 2))))
    model = nn.Sequential(nn.Sequential(nn.Conv3d(3, 4, 3)), inner, nn.Conv3d(4, 2, 1), nn.BatchNorm3d(2), nn.ReLU())
    model[3].eval()
    fuse_and_check(model, [("0.0", "1.0", "1.1.0"), ("3", "4")])


class Net(nn.Module):
    """conv, norm, relu, pool; subclasses differ in how they use them."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv3d(3, 3, 3, padding=1), nn.BatchNorm3d(3), nn.ReLU()
        self.pool = nn.MaxPool3d(3, 1, 1)


class UsedTwice(Net):
    def forward(self, x):
        y = self.conv(x)
        return self.pool(self.relu(y)) + y


class RectifiedUsedTwice(Net):
    def forward(self, x):
        y = self.relu(self.conv(x))
        return self.pool(y) + y


class PooledUsedTwice(Net):
    def forward(self, x):
        y = self.pool(self.relu(self.norm(self.conv(x))))
        return y.sin() + y


class Function(Net):
    def forward(self, x):
        return self.norm(self.pool(F.relu(self.conv(x), inplace=True)).contiguous())


class WrittenLater(Net):
    def forward(self, x):
        return self.pool(F.relu(self.conv(x))).flatten(1).mul_(2)


class AddedTo(Net):
    def forward(self, x):
        y = self.pool(F.relu(self.conv(x)))
        y += x
        return self.norm(y)


class Returned(Net):
    def forward(self, x):
        return self.pool(F.relu(self.conv(x)))


class Method(Net):
    def forward(self, x):
        return self.conv(self.pool(self.norm(x).relu()))


class FunctionAlone(Net):
    def forward(self, x):
        return torch.relu(self.conv(x))


class FunctionPool(Net):
    def forward(self, x):
        return F.max_pool3d(self.relu(self.conv(x)), 2)


class CalledTwice(Net):
    def forward(self, x):
        return self.pool(self.relu(self.conv(self.conv(x))))


class PoolCalledTwice(Net):
    def forward(self, x):
        return self.pool(self.pool(self.relu(self.conv(x))))


class InTraining(Net):
    def forward(self, x):
        y = self.relu(self.conv(x))
        return self.pool(y) if self.training else y


class ByFlag(Net):
    def forward(self, x, raw=False):
        y = self.conv(x)
        return y if raw else self.relu(y)


class ByOptionalArgument(Net):
    def forward(self, x, scale=None):
        y = self.conv(x)
        return self.relu(y if scale is None else y * scale)


class Unaffected(Net):
    def forward(self, x, scale=None, twice=False):
        x = x if scale is None else x * scale
        y = self.relu(self.norm(x))
        return 2 * y if twice else y


class QuietRelu(Net):
    def forward(self, x):
        y = self.conv(x)
        with torch.no_grad():
            z = self.relu(y)
        return z + y.detach() + x


class QuietChain(Net):
    def forward(self, x):
        with torch.no_grad():
            y = self.relu(self.conv(x))
        return y + x


class Keeps(Net):
    def forward(self, x):
        self.kept = self.conv(x)
        return self.relu(self.kept)


class Collects(Net):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(self.conv(x))
        return self.relu(self.seen[-1])


class Branches(Net):
    def forward(self, x):
        return self.relu(self.conv(x)) if x.sum() > 0 else self.conv(x)


ALL = ("conv", "relu", "pool")


@pytest.mark.parametrize(
    ("kind", "chains", "words"),
    [
        (UsedTwice, [], "conv's output is used 2 times"),
        (RectifiedUsedTwice, [ALL[:2]], ""),
        (PooledUsedTwice, [("norm", "relu", "pool")], ""),
        (Function, [("conv", "pool")], ""),
        (Method, [("norm", "pool")], ""),
        (WrittenLater, [], "what follows the max-pooling may write to its result"),
        (AddedTo, [], "what follows the max-pooling may write to its result"),
        (Returned, [], "what follows the max-pooling may write to its result"),
        (FunctionAlone, [], "its ReLU is a function, which cannot be removed, and there is no max-pooling to absorb"),
        (FunctionPool, [ALL[:2]], ""),
        (CalledTwice, [], "conv is called 2 times"),
        (PoolCalledTwice, [ALL[:2]], ""),
        (InTraining, [], "in training, in evaluation or by an optional argument"),
        (ByFlag, [], "in training, in evaluation or by an optional argument"),
        (ByOptionalArgument, [], "in training, in evaluation or by an optional argument"),
        (Unaffected, [("norm", "relu")], ""),
        (QuietRelu, [], "used 2 times"),
        (QuietChain, [ALL[:2]], ""),
        (Branches, [], "cannot be traced: symbolically traced variables cannot be used as inputs to control flow"),
    ],
)
def test_what_forward_does(kind, chains, words):
    report = fuse_and_check(kind(), chains)
    assert len(report.left) == (1 if words else 0), str(report)
    assert words in str(report)


class QuietReluOnly(Net):
    def forward(self, x):
        y = self.conv(x)
        with torch.no_grad():
            y = self.relu(y)
        return y + x


class AutocastRelu(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.conv(x)
        return self.relu(y)


@pytest.mark.parametrize("kind", [QuietReluOnly, AutocastRelu])
def test_other_contexts(kind):
    model = kind()
    report = fastrcn.fuse(model)
    assert not report
    assert "same gradient mode and autocast" in str(report)


@pytest.mark.parametrize(("kind", "name"), [(Keeps, "kept"), (Collects, "seen")])
def test_values_that_escape(kind, name):
    """What forward puts into an attribute is seen elsewhere; tracing leaves nothing there."""
    model = kind()
    before = dict(model.__dict__)
    report = fastrcn.fuse(model)
    assert not report
    assert f"forward sets the attribute '{name}'" in str(report)
    assert model.__dict__ == before
    pickle.dumps(model)
    model(X)


class MyConv(nn.Conv3d):
    pass


class MyPool(nn.MaxPool3d):
    pass


def with_hook(module):
    module.register_forward_hook(lambda *_: None)
    return module


def replaced_forward(module):
    module.forward = lambda x: x
    return module


CONV, NORM, RELU, POOL = lambda: nn.Conv3d(3, 4, 3), lambda: nn.BatchNorm3d(4), nn.ReLU, lambda: nn.MaxPool3d(2)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (lambda: [MyConv(3, 4, 3), RELU(), POOL()], "0 is a MyConv, not exactly a Conv3d"),
        (lambda: [with_hook(CONV()), RELU(), POOL()], "0 has hooks"),
        (lambda: [replaced_forward(CONV()), RELU(), POOL()], "0 has hooks or another forward"),
        (lambda: [parametrizations.weight_norm(CONV()), RELU()], "0 has parametrizations"),
        (lambda: [parametrizations.spectral_norm(CONV()), RELU()], "0 has parametrizations"),
        (lambda: [nn.LazyConv3d(4, 3), RELU()], "0 is a LazyConv3d: it has no weight before the first call"),
        (lambda: [CONV(), nn.LazyBatchNorm3d(), RELU()], "1 is a LazyBatchNorm3d"),
        (lambda: [CONV(), nn.SyncBatchNorm(4), RELU()], "a SyncBatchNorm takes its statistics from all processes"),
        (lambda: [CONV(), with_hook(NORM()), RELU()], "1 has hooks"),
        (lambda: [CONV(), with_hook(RELU())], "1 has hooks or another forward, which would no longer see its values"),
        (lambda: [CONV(), RELU(), nn.MaxPool3d(7, 1, 3)], "2 has windows of 343 cells, more than 255"),
    ],
)
def test_modules_that_stay(modules, words):
    model = nn.Sequential(*modules())
    kinds = [type(m) for m in model]
    report = fastrcn.fuse(model)
    assert not report
    assert len(report.left) == 1
    assert words in str(report)
    assert [type(m) for m in model] == kinds


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (lambda: with_hook(POOL()), "2 has hooks"),
        (lambda: MyPool(2), "2 is a MyPool, not exactly a MaxPool3d"),
        (lambda: nn.MaxPool3d(1, 2), "2 has windows of one cell"),
    ],
)
def test_pools_that_stay(pool, words):
    report = fuse_and_check(nn.Sequential(CONV(), RELU(), pool()), [("0", "1")])
    assert words in report.replaced[0].note


def test_pool_with_indices_stays():
    model = nn.Sequential(CONV(), RELU(), nn.MaxPool3d(2, return_indices=True))
    plain = copy.deepcopy(model)
    report = fastrcn.fuse(model)
    assert report.replaced[0].modules == ("0", "1")
    assert report.replaced[0].note == "2 returns indices"
    for a, b in zip(model(X), plain(X), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
def test_weight_norm_by_hook_stays():
    report = fastrcn.fuse(nn.Sequential(nn.utils.weight_norm(CONV()), RELU()))
    assert "0 has hooks" in str(report)


def test_lazy_modules_after_their_first_call():
    model = nn.Sequential(nn.LazyConv3d(4, 3), nn.LazyBatchNorm3d(), RELU())
    model(X)
    fuse_and_check(model, [("1", "2")])


class Recurrent(nn.Module):
    """A loop over the batch: torch.fx cannot trace it."""

    def __init__(self, whole):
        super().__init__()
        self.encoder, self.whole = nn.Sequential(CONV(), RELU(), POOL()), whole

    def forward(self, x):
        if self.whole:
            return torch.cat([self.encoder(x[k : k + 1]) for k in range(len(x))])
        return x


class Taps(Recurrent):
    def forward(self, x):
        if x.sum() > 1e9:
            return x
        found = []
        for layer in self.encoder:
            x = layer(x)
            found.append(x.flatten(1))
        return torch.cat(found, 1)


def test_parts_of_what_cannot_be_traced():
    model = Recurrent(True)
    report = fuse_and_check(model, [("encoder.0", "encoder.1", "encoder.2")])
    assert "Recurrent: cannot be traced" in str(report)
    report = fuse_and_check(Taps(True), [])
    assert "encoder: Taps cannot be traced and may not call it as a whole" in str(report)
    model = nn.Sequential(nn.Conv3d(3, 3, 1), nn.ReLU(), Recurrent(True))
    fuse_and_check(model, [("0", "1"), ("2.encoder.0", "2.encoder.1", "2.encoder.2")])


def called_in_turn(self, x):
    for block in self.blocks:
        x = block(x)
    return x


def called_by_number(self, x):
    for k in range(len(self.blocks)):
        x = self.blocks[k](x)
    return x


def first_in_parts(self, x):
    return self.blocks[1](self.blocks[0][1](self.blocks[0][0](x)).square())


def parts_in_turn(self, x):
    for block in self.blocks:
        for module in block:
            x = module(x)
    return x


def kept_aside(self, x):
    first = next(iter(self.blocks))
    return self.blocks[1](first[1](first[0](x) + 1))


def put_together(self, x):
    return nn.Sequential(*self.blocks)(x)


@pytest.mark.parametrize(
    ("run", "whole"),
    [
        (called_in_turn, True), (called_by_number, True), (first_in_parts, False), (parts_in_turn, False),
        (kept_aside, False), (put_together, False),
    ],
)  # fmt: skip
def test_elements_of_a_list_in_what_cannot_be_traced(run, whole):
    """Each is a part of its own where the module only calls it as a whole."""

    class Checks(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(
                [nn.Sequential(CONV(), RELU()), nn.Sequential(nn.Conv3d(4, 2, 1), nn.BatchNorm3d(2), RELU())]
            )

        def forward(self, x):
            assert isinstance(x, torch.Tensor)
            return self.run(x)

    Checks.run = run
    chains = [("blocks.0.0", "blocks.0.1"), ("blocks.1.1", "blocks.1.2")] if whole else []
    report = fuse_and_check(Checks(), chains)
    assert ("may not call it as a whole" in str(report)) != whole


def test_modules_of_several_parts():
    """A convolution that also belongs to a part that cannot be traced may be called there by itself."""
    model = nn.Sequential(nn.Conv3d(3, 3, 1), nn.ReLU(), Recurrent(True))
    model[2].other = model[0]
    report = fastrcn.fuse(model)
    assert "0 also belongs to a part that was not traced with it" in str(report)
    assert type(model[0]) is nn.Conv3d
    whole = nn.Sequential(nn.Conv3d(3, 3, 1), nn.ReLU())
    fuse_and_check(
        nn.Sequential(whole, nn.Sequential(nn.Identity(), nn.BatchNorm3d(3), nn.ReLU())),
        [("0.0", "0.1"), ("1.1", "1.2")],
    )


def test_hook_between():
    """A hook of the Sequential around the convolution sees its output."""
    model = nn.Sequential(
        with_hook(nn.Sequential(CONV())), RELU(), with_hook(nn.Sequential(nn.Conv3d(4, 2, 1), RELU()))
    )
    report = fastrcn.fuse(model)
    assert [entry.modules for entry in report.replaced] == [("2.0", "2.1")]
    model(X)


def test_tracing_leaves_no_trace():
    class Counts(Net):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x):
            self.steps.add_(1)
            return self.relu(self.conv(x + torch.rand(1)))

    model = Counts()
    model.norm.eval()
    state = torch.get_rng_state()
    assert len(fastrcn.fuse(model)) == 1
    assert model.steps == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in (model, model.conv, model.norm)] == [True, True, False]


def test_training_goes_on_with_the_same_optimizer():
    model = nn.Sequential(CONV(), NORM(), RELU(), POOL(), nn.Conv3d(4, 2, 1, bias=False), RELU())
    model[0].bias = None
    plain = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(m.parameters(), 0.01) for m in (model, plain)]
    for step in range(4):
        if step == 1:
            assert len(fastrcn.fuse(model)) == 2
        for m, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            m(X).square().mean().backward()
            optimizer.step()
    for (key, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_and_states(copied):
    model, fresh = (nn.Sequential(CONV(), NORM(), RELU(), POOL(), nn.Conv3d(4, 4, 1), RELU()) for _ in range(2))
    fastrcn.fuse(model)
    model(X)
    other = copied(model)
    fresh.load_state_dict(model.state_dict(), strict=True)
    other.load_state_dict(fresh.state_dict(), strict=True)
    for training in (True, False):
        truth = model.train(training)(X)
        assert torch.equal(other.train(training)(X), truth)
        torch.testing.assert_close(fresh.train(training)(X), truth)


@pytest.mark.parametrize("training", [True, False])
def test_compile(training):
    torch._dynamo.reset()
    model = nn.Sequential(CONV(), NORM(), RELU(), POOL(), nn.Conv3d(4, 4, 1), RELU()).train(training)
    fastrcn.fuse(model)
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for x in (X, X[:1]):
        found, truth = compiled(x), other(x)
        assert_close(found, truth)
        found.sum().backward()
        truth.sum().backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_backend_and_arguments():
    model = nn.Sequential(CONV(), RELU())
    fastrcn.fuse(model, backend="reference")
    assert model[0].backend == "reference"
    assert "backend='reference'" in repr(model)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        fastrcn.fuse([CONV()])
    with pytest.raises(ValueError, match=r"backend: expected one of reference.*'gpu'"):
        fastrcn.fuse(nn.Sequential(CONV(), RELU()), backend="gpu")
    assert str(fastrcn.fuse(nn.Linear(2, 2))) == "fused 0 chains, left 0"


def test_the_layers_of_the_package_stay():
    model = nn.Sequential(
        fastrcn.ConvBNReLUPool3d(3, 4, 3, pool_kernel_size=2), nn.ReLU(), fastrcn.BatchNormReLUPool3d(4)
    )
    report = fastrcn.fuse(model)
    assert not report.replaced
    assert not report.left


def test_convolution_before_a_normalisation_keeps_its_numbers_without_gradients():
    model = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU()).eval()
    with torch.no_grad():
        plain = model(X)
        report = fastrcn.fuse(model)
        assert type(model[0]) is FusedConv3d
        assert report.replaced[0].note == "0 -> FusedConv3d"
        assert torch.equal(model[0](X), nn.functional.conv3d(X, model[0].weight, model[0].bias, padding=1))
        assert_close(model(X), plain)


def test_parametrized_convolution_before_a_normalisation_stays():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv3d(3, 4, 3)), nn.BatchNorm3d(4), nn.ReLU())
    kind = type(model[0])
    assert fastrcn.fuse(model).replaced[0].modules == ("1", "2")
    assert type(model[0]) is kind
