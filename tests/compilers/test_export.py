"""torch.export: one operator for a sequence, for every number of steps and sequences; run by another process too."""

import pytest
import torch
from torch.export import Dim, export

import fastrcn
from fastrcn import cells
from fastrcn.cells.named import cell_of
from tests.compilers.other_process import run_there
from tests.compilers.subjects import SUBJECTS, results, weighted
from tests.compilers.table import columns_with
from tests.helpers.cells import MGU
from tests.helpers.tolerances import assert_close

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
]

X = torch.randn(4, 2, 2, 4, 3, generator=torch.Generator().manual_seed(0))
ANY = {0: Dim("steps", min=1), 1: Dim("batch", min=1)}
OTHER = 7, 3
"""Steps and sequences of the runs; programs are exported with others."""

OF_OTHER_CELLS = {
    "conv": fastrcn.ConvLSTM(2, 3, peephole="conv"),
    "eps": fastrcn.ConvGRU(2, 3, reset="after", layer_norm="channel", layer_norm_eps=0.1),
}
RUN_ALL = """
for column, arguments in torch.load("arguments.pt").items():
    module = torch.export.load(column + ".pt2").module()
    torch.manual_seed(1)
    try:
        results[column] = torch.utils._pytree.tree_leaves(module(*arguments))
    except RuntimeError as error:
        results[column] = str(error)
"""


def _dims(subject):
    return subject.axes(Dim("steps", min=4), Dim("batch", min=1))


@pytest.fixture(scope="module")
def programs():
    """column -> (module, its program that is not strict, arguments, what they give in this process)."""
    made = {}
    for column in columns_with("test_export", "yes"):
        subject = SUBJECTS[column]
        torch.manual_seed(0)
        module = subject.make()
        program = export(module, subject.arguments(4, 2), dynamic_shapes=_dims(subject), strict=False)
        arguments = subject.arguments(*OTHER)
        made[column] = module, program, arguments, [t.detach() for t in results(module, arguments)]
    return made


@pytest.fixture(scope="module")
def elsewhere(programs, tmp_path_factory):
    """column -> what the saved programs give in another process."""
    folder = tmp_path_factory.mktemp("programs")
    saved = {column: (program, arguments) for column, (_, program, arguments, _) in programs.items()}
    saved |= {name: (export(layer, (X,)), (X,)) for name, layer in OF_OTHER_CELLS.items()}
    saved["own"] = export(fastrcn.ConvRecurrent(MGU(), 2, 3), (X,)), (X,)
    for name, (program, _) in saved.items():
        torch.export.save(program, folder / f"{name}.pt2")
    torch.save({name: arguments for name, (_, arguments) in saved.items()}, folder / "arguments.pt")
    return run_there(RUN_ALL, folder)


@pytest.mark.parametrize("column", SUBJECTS)
def test_export(column, programs, elsewhere):
    if column not in programs:
        for strict in (False, True):
            with pytest.raises(Exception, match=r"reset: expected None in an exported program"):
                export(SUBJECTS[column].make(), SUBJECTS[column].arguments(4, 2), strict=strict)
        return
    module, program, arguments, truth = programs[column]
    strict = export(module, SUBJECTS[column].arguments(4, 2), dynamic_shapes=_dims(SUBJECTS[column]), strict=True)
    for found in (results(program.module(), arguments), results(strict.module(), arguments), elsewhere[column]):
        for a, b in zip(found, truth, strict=True):
            assert_close(a, b)


def test_one_operator_for_all_steps():
    layer = fastrcn.ConvLSTM(2, 3, bidirectional=True)
    program = export(layer, (X,), dynamic_shapes=(ANY,))
    for graph in (program.graph, program.run_decompositions().graph):
        assert [str(n.target) for n in graph.nodes].count("fastrcn.conv_recurrent.default") == 2
    for steps, batch in ((1, 1), (9, 2)):
        x = torch.randn(steps, batch, 2, 4, 3)
        assert_close(program.module()(x)[0], layer(x)[0])


def test_program_is_trained():
    layer = fastrcn.ConvGRU(2, 3, recompute=True)
    module = export(layer, (X,), dynamic_shapes=(ANY,)).module()
    for found, parameter in zip(
        torch.autograd.grad(weighted([module(X)[0]]), list(module.parameters())),
        torch.autograd.grad(weighted([layer(X)[0]]), [layer.get_parameter(n) for n, _ in module.named_parameters()]),
        strict=True,
    ):
        assert_close(found, parameter)


def test_backend_is_chosen_where_the_program_runs():
    layer = fastrcn.ConvLSTM(2, 3)
    module = export(layer, (X,)).module()
    with fastrcn.use_backend("reference"):
        truth = layer(X)[0]
        assert torch.equal(module(X)[0], truth)
    assert not torch.equal(module(X)[0], truth)
    named = export(fastrcn.ConvLSTM(2, 3, backend="cpu"), (X,)).module()
    with pytest.raises(RuntimeError, match=r"argument backend: backend 'cpu' cannot run conv_recurrent.*float16"):
        named.half()(X.half())


def test_lengths_are_checked_where_the_program_runs():
    layer = SUBJECTS["lengths"].make()
    module = export(layer, (X, torch.tensor([4, 2]))).module()
    with pytest.raises(ValueError, match=r"lengths: expected values from 0 to 4, the number of steps, got 2 to 5"):
        module(X, torch.tensor([5, 2]))


def test_reference_backend_is_unrolled():
    layer = fastrcn.ConvLSTM(2, 3, backend="reference")
    program = export(layer, (X,), dynamic_shapes=({1: ANY[1]},))
    assert not any("fastrcn" in str(n.target) for n in program.graph.nodes)
    x = torch.randn(4, 5, 2, 4, 3)
    assert_close(program.module()(x)[0], layer(x)[0])
    with pytest.raises(Exception, match=r"steps.*specialized|specialized.*steps"):
        export(layer, (X,), dynamic_shapes=(ANY,))


@pytest.mark.parametrize("name", OF_OTHER_CELLS)
def test_cells_of_this_package_are_made_anew(name, elsewhere):
    assert_close(elsewhere[name][0], OF_OTHER_CELLS[name](X)[0])


def test_cell_that_the_other_process_does_not_know(elsewhere):
    """Its equations are not in the program."""
    assert "is not known in this process; construct the cell (or its layer) first" in elsewhere["own"]


def test_keys_of_cells_stay():
    """Programs that were saved carry them."""
    assert fastrcn.ConvLSTM(2, 3).cell.key == "fastrcn.cells.conv_lstm.ConvLSTM(peephole=False)"
    assert cells.Zoneout(MGU()).key.startswith(
        "fastrcn.cells.noise.Zoneout(cell=tests.helpers.cells.MGU(), zoned=('h',))#"
    )


@pytest.mark.parametrize(
    "text", ["1 +", "print()", "fastrcn.cells.cell.conv(1)", "os.system(command='x')", "f.ConvLSTM()"]
)
def test_text_that_is_no_cell(text):
    assert cell_of(text) is None


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # PyTorch's own
def test_transforms_of_a_program():
    layer = fastrcn.ConvLSTM(2, 3)
    module, xs = export(layer, (X,)).module(), torch.stack([X, -X])

    def gradient(of):
        return torch.func.grad(lambda x: weighted([of(x)[0]]))

    def tangent(of):
        with fastrcn.use_backend("reference"):
            return torch.func.jvp(lambda x: of(x)[0], (X,), (X.cos(),))[1]

    assert_close(gradient(module)(X), gradient(layer)(X))
    assert_close(torch.vmap(lambda x: module(x)[0])(xs), torch.stack([layer(x)[0] for x in xs]))
    assert_close(torch.vmap(gradient(module))(xs), torch.stack([gradient(layer)(x) for x in xs]))
    assert_close(tangent(module), tangent(layer))
    with pytest.raises(RuntimeError, match="only the reference backend has"):
        torch.func.jvp(lambda x: module(x)[0], (X,), (X,))


def test_decomposed_by_the_table_of_all_decompositions():
    """It holds the plain form then, step by step."""
    layer = fastrcn.ConvGRU(2, 3)
    program = export(layer, (X,)).run_decompositions(torch._decomp.decomposition_table)
    assert not any("fastrcn" in str(node.target) for node in program.graph.nodes)
    assert_close(program.module()(X)[0], layer(X)[0])
    with pytest.raises(ValueError, match="expected a fixed number of steps T in an ONNX or decomposed program"):
        export(layer, (X,), dynamic_shapes=(ANY,)).run_decompositions(torch._decomp.decomposition_table)
