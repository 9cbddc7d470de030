"""torch.func: derivatives of functions of the parameters, maps over sequences and over parameters, forward mode."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jvp, vjp, vmap

import fastrcn
from fastrcn.functional import conv_lstm
from tests.compilers.subjects import SUBJECTS, results, weighted
from tests.compilers.table import columns_with
from tests.helpers.cells import SUBJECTS as CELLS
from tests.helpers.cells import Case, make_tensors, run_package
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Case(steps=3, batch=2, inputs=2, channels=3, height=4, width=3)


def _subject(column):
    """(parameters, outputs as a function of parameters and arguments, arguments), in float64.

    In evaluation but for noise: statistics of a batch are written in place, which no map of PyTorch takes. Without
    PyTorch's own dropout between layers, which draws other numbers here."""
    module = SUBJECTS[column].make().double().train(column == "noise")
    if column == "noise":
        module.dropout = 0.0
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    arguments = tuple(a.double() if a.is_floating_point() else a for a in SUBJECTS[column].arguments(4, 2))

    def outputs(values, *given):
        return results(lambda *a: functional_call(module, values, a), given)

    return parameters, outputs, arguments


@pytest.mark.parametrize("column", columns_with("test_gradients", "yes"))
def test_gradients(column):
    parameters, outputs, (x, *rest) = _subject(column)
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    y = x.clone().requires_grad_()
    truth = torch.autograd.grad(weighted(outputs(leaves, y, *rest)), [*leaves.values(), y])
    found, d_x = grad(lambda p, v: weighted(outputs(p, v, *rest)), (0, 1))(parameters, x)
    pulled, pulled_x = vjp(lambda p, v: weighted(outputs(p, v, *rest)), parameters, x)[1](torch.ones(()).double())
    for results_of_one in ([*found.values(), d_x], [*pulled.values(), pulled_x]):
        for a, b in zip(results_of_one, truth, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("column", columns_with("test_vmap", "yes"))
def test_vmap(column):
    """Over x and over the parameters, and the gradients of each x's loss, against a loop."""
    parameters, outputs, (x, *rest) = _subject(column)
    xs = torch.stack([x, x.flip(0), 2 * x])
    ensemble = {name: torch.stack([p, -p, p / 2]) for name, p in parameters.items()}

    def loss(values, v):
        return weighted(outputs(values, v, *rest))

    mapped = [
        vmap(lambda v: outputs(parameters, v, *rest), randomness="same")(xs),
        vmap(lambda p: outputs(p, x, *rest), randomness="same")(ensemble),
        vmap(grad(loss), (None, 0), randomness="same")(parameters, xs).values(),
    ]
    for k in range(3):
        one = {name: p[k] for name, p in ensemble.items()}
        truth = [outputs(parameters, xs[k], *rest), outputs(one, x, *rest), grad(loss)(parameters, xs[k]).values()]
        for found, expected in zip(mapped, truth, strict=True):
            for a, b in zip(found, expected, strict=True):
                assert_close(a[k], b)


def test_lengths_are_not_mapped_over():
    layer = fastrcn.ConvLSTM(2, 3)
    with pytest.raises(RuntimeError, match=r"vmap.*\.item\(\)"):
        vmap(lambda n: layer(torch.zeros(4, 2, 2, 4, 3), lengths=n)[0])(torch.tensor([[4, 2], [3, 3]]))


forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # PyTorch's own


@forward_mode
@pytest.mark.parametrize("column", columns_with("test_forward_mode", "reference only"))
def test_forward_mode(column):
    """On the reference backend the difference quotient; on others an error in place of a lost tangent."""
    parameters, outputs, (x, *rest) = _subject(column)
    direction, step = torch.randn_like(x), 1e-6

    def first(v):
        return outputs(parameters, v, *rest)[0]

    def by_dual_numbers():
        with torch.no_grad(), forward_ad.dual_level():
            return forward_ad.unpack_dual(first(forward_ad.make_dual(x, direction))).tangent

    ways = (lambda: jvp(first, (x,), (direction,))[1], by_dual_numbers)
    for way in (*ways, lambda: hessian(lambda s: first(s * x).sum())(torch.ones((), dtype=x.dtype))):
        if column == "noise" and way not in ways:  # hessian maps, and random numbers would have to be told how
            continue
        with pytest.raises(RuntimeError, match=r'no forward-mode derivatives.*ask for backend="reference"'):
            way()
    with fastrcn.use_backend("reference"):
        difference = (first(x + step * direction) - first(x - step * direction)) / (2 * step)
        for way in ways:
            assert float((way() - difference).norm() / difference.norm()) < 1e-7


@forward_mode
def test_a_tangent_of_the_gradient_alone_is_refused():
    """Forward-mode derivatives of a backward pass, whose forward pass knew nothing of them."""
    x, weight = torch.randn(1, 2, 2, 4, 5, requires_grad=True), torch.randn(3, 2, 1, 3, 3)
    output = fastrcn.functional.conv3d_relu_maxpool3d(x, weight)
    with forward_ad.dual_level():
        grad = forward_ad.make_dual(torch.randn_like(output), torch.randn_like(output))
        with pytest.raises(NotImplementedError, match="jvp"):
            torch.autograd.grad(output, x, grad)


@forward_mode
def test_jacobian_and_hessian_on_the_reference():
    layer = fastrcn.ConvGRU(1, 1, backend="reference").double()
    x = torch.randn(2, 1, 1, 2, 1, dtype=torch.float64)
    found = jacfwd(lambda v: layer(v)[0])(x)
    assert_close(found, torch.autograd.functional.jacobian(lambda v: layer(v)[0], x))
    second = hessian(lambda v: layer(v)[0].sin().sum())(x)
    assert_close(second, torch.autograd.functional.hessian(lambda v: layer(v)[0].sin().sum(), x))


def _function(name):
    """(a function of all tensors of a cell's call, the initial states too, and those tensors)."""
    tensors = make_tensors(CELLS[name], SMALL)

    def function(*values):
        output, states = run_package(CELLS[name], SMALL, dict(zip(tensors, values, strict=True)), "cpu")
        return weighted([output, *states])

    return function, list(tensors.values())


@pytest.mark.parametrize("name", ["lstm_channel", "gru_before"])
def test_gradients_of_all_arguments(name):
    function, values = _function(name)
    found = grad(function, tuple(range(len(values))))(*values)
    for a, b in zip(found, torch.autograd.grad(function(*values), values), strict=True):
        assert_close(a, b)


def test_hessian_vector_product():
    """Of the fused form: two times backward."""
    function, (x, *rest) = _function("gru_before")
    vector = torch.randn_like(x)
    found = grad(lambda v: (grad(function)(v, *rest) * vector).sum())(x)
    (first,) = torch.autograd.grad(function(x, *rest), x, create_graph=True)
    assert_close(found, torch.autograd.grad((first * vector).sum(), x)[0])


def test_functional_call_takes_the_parameters():
    layer = fastrcn.ConvLSTM(2, 3)
    doubled = {n: 2 * p.detach() for n, p in layer.named_parameters()}
    x = torch.randn(3, 2, 2, 4, 3)
    found = functional_call(layer, doubled, (x,))[0]
    truth = conv_lstm(x, doubled["weight_ih_l0"], doubled["weight_hh_l0"], doubled["bias_l0"])[0]
    assert torch.equal(found, truth)
