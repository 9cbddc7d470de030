"""Layers that earlier versions pickled, and their state_dicts, give the outputs that those versions gave."""

import gzip
import pickle
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from tests.compilers.make_pickles import LAYERS
from tests.compilers.table import columns_with
from tests.helpers.tolerances import assert_close

FILES = sorted((Path(__file__).parent / "pickles").glob("*.pt.gz"))


def _load(path):
    with gzip.open(path) as file:
        return torch.load(file, weights_only=False)


@pytest.fixture(scope="module")
def records():
    """What each version recorded."""
    return {path.name: _load(path) for path in FILES}


def _check(module, recorded):
    found = module(recorded["input"], **recorded["options"])
    for a, b in zip(tree_leaves(found), tree_leaves(recorded["output"]), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("column", columns_with("test_pickles", "yes"))
def test_pickles(column, records):
    having = [record[column] for record in records.values() if column in record]
    assert having
    for layers in having:
        for (make, _, _), recorded in zip(LAYERS[column], layers, strict=True):
            for module in (recorded["module"], pickle.loads(pickle.dumps(recorded["module"]))):
                _check(module, recorded)
                assert repr(module) == repr(make())
            fresh = make().double().eval()
            fresh.load_state_dict(recorded["state"])
            _check(fresh, recorded)


def test_versions(records):
    assert list(records) == ["49d09ea.pt.gz", "77a246d.pt.gz"]
    assert not any(
        hasattr(layer["module"], "maps") for r in records.values() for layers in r.values() for layer in layers
    )


def test_pickle_of_an_earlier_version_has_what_later_ones_added(records):
    for column, layers in records["49d09ea.pt.gz"].items():
        for (make, _, _), recorded in zip(LAYERS[column], layers, strict=True):
            for name in vars(make()):
                assert hasattr(recorded["module"], name), name
