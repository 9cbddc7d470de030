"""ONNX: one program with the layers of all columns, in evaluation, exported by PyTorch and run by ONNX Runtime."""

import pytest
import torch
from torch.export import Dim

import fastrcn
from tests.compilers.subjects import SUBJECTS, Everything, axes_of, inputs
from tests.compilers.table import columns_with
from tests.helpers.tolerances import assert_close

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

STEPS = 2
NAMES = ("x", "vectors", "clip", "lengths")
X = torch.randn(STEPS, 2, 2, 4, 3, generator=torch.Generator().manual_seed(0))


def _run(path, given):
    session = onnxruntime.InferenceSession(path)
    names = [i.name for i in session.get_inputs()]
    assert len(names) == len(given)
    return [torch.from_numpy(a) for a in session.run(None, dict(zip(names, (t.numpy() for t in given), strict=True)))]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """column -> [(what the module gives, what the program gives)] for two numbers of sequences."""
    torch.manual_seed(0)
    module = Everything(columns_with("test_onnx", "yes")).eval()
    path = tmp_path_factory.mktemp("onnx") / "layers.onnx"
    axes = axes_of(NAMES, None, Dim("batch", min=2))
    shapes = tuple({axis: dim for axis, dim in each.items() if dim is not None} for each in axes)
    torch.onnx.export(
        module,
        tuple(inputs(STEPS, 2, NAMES).values()),
        path,
        dynamo=True,
        dynamic_shapes=shapes,
        verbose=False,
    )
    pairs = {column: [] for column in module}
    for batch in (2, 3):
        given = inputs(STEPS, batch, NAMES)
        with torch.no_grad():
            truth = module(*given.values())
        found = iter(_run(path, list(given.values())))
        for column, tensors in truth.items():
            pairs[column] += [(t, next(found)) for t in tensors]
        assert next(found, None) is None
    return pairs


@pytest.mark.parametrize("column", SUBJECTS)
def test_onnx(column, outputs, tmp_path):
    if column not in outputs:
        subject = SUBJECTS[column]
        with pytest.raises(Exception, match=r"reset: expected None in an exported program"):
            torch.onnx.export(subject.make(), subject.arguments(STEPS, 2), tmp_path / "layer.onnx", dynamo=True)
        return
    for truth, found in outputs[column]:
        assert_close(found, truth)


def test_exported_program(tmp_path):
    """The operator that torch.export keeps becomes the plain form."""
    layer, path = fastrcn.ConvGRU(2, 3), tmp_path / "layer.onnx"
    torch.onnx.export(torch.export.export(layer, (X,)), (), path, dynamo=True, verbose=False)
    for found, truth in zip(_run(path, [X]), layer(X), strict=True):
        assert_close(found, truth)


def test_any_number_of_steps_is_refused(tmp_path):
    with pytest.raises(Exception, match=r"input: expected a fixed number of steps T in an ONNX or .*leave axis T out"):
        torch.onnx.export(
            fastrcn.ConvGRU(2, 3),
            (X,),
            tmp_path / "layer.onnx",
            dynamo=True,
            dynamic_shapes=({0: Dim("steps")},),
            verbose=False,
        )
