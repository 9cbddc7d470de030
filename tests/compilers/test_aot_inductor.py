"""AOTInductor on the CPU: one package with the layers of all columns, in evaluation, run here and by another."""

import pytest
import torch
from torch.export import Dim, export

from tests.compilers.other_process import run_there
from tests.compilers.subjects import SUBJECTS, Everything, axes_of, inputs
from tests.compilers.table import columns_with
from tests.helpers.tolerances import assert_close

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

NAMES = ("x", "vectors", "clip", "lengths")
RUN = """
given = torch.load("inputs.pt")
results |= torch._inductor.aoti_load_package("package.pt2")(*given.values())
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """column -> (what the module gives, what the package gives here, what it gives in another process)."""
    torch.manual_seed(0)
    module, folder = Everything(columns_with("test_aot_inductor", "yes")).eval(), tmp_path_factory.mktemp("package")
    dims = axes_of(NAMES, Dim("steps", min=4), Dim("batch", min=2))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("CI", "true")  # Inductor then refuses an operator with a decomposition, unless told to keep it
        program = export(module, tuple(inputs(4, 2, NAMES).values()), dynamic_shapes=dims)
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(folder / "package.pt2"),
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
        )
        given = inputs(7, 3, NAMES)
        torch.save(given, folder / "inputs.pt")
        truth = module(*given.values())
        here = torch._inductor.aoti_load_package(str(folder / "package.pt2"))(*given.values())
    there = run_there(RUN, folder)
    return {column: (truth[column], here[column], there[column]) for column in module}


@pytest.mark.parametrize("column", SUBJECTS)
def test_aot_inductor(column, outputs):
    if column not in outputs:
        with pytest.raises(RuntimeError, match=r"reset: expected None in an exported program"):
            export(SUBJECTS[column].make(), SUBJECTS[column].arguments(4, 2))
        return
    truth, *found = outputs[column]
    for process in found:
        for a, b in zip(process, truth, strict=True):
            assert_close(a, b)
