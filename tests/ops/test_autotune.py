"""The measured choice of configurations and its files, with a timer and a GPU that are made up."""

import json
import os
import re
import time
import warnings
from dataclasses import astuple
from types import SimpleNamespace

import pytest
import torch

import fastrcn
from fastrcn.ops import autotune
from fastrcn.ops.conv_recurrent.triton_config import Config
from tests.helpers.at_once import at_once

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.triton
CONFIGS = [Config(128, 64, 64, 8, 3, 16), Config(64, 32, 64, 4, 3, 16), Config(64, 16, 64, 4, 3)]
GPU = SimpleNamespace(name="NVIDIA Made-Up 1", major=9, minor=0, multi_processor_count=132)


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Nothing known, a folder of its own, and a GPU."""
    for name in ("_known", "_told"):
        monkeypatch.setattr(autotune, name, type(getattr(autotune, name))())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: GPU)
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTRCN_AUTOTUNE", raising=False)


def forget():
    """As a new process."""
    autotune._known.clear()


def choose(*times, key="kernel", candidates=CONFIGS):
    """(what is chosen where the candidates take these times, how many were measured)."""
    left, started = iter(times), []
    with fastrcn.use_autotune(timer=lambda launch: next(left)):
        found = autotune.fastest(torch.empty(0), lambda: key, candidates, CONFIGS[0], lambda c: started.append(c) or c)
    return found, len(started)


def never(launch):
    raise AssertionError("measured")


def file():
    return autotune.file_of("cuda")


@pytest.mark.parametrize("times", [(1, 2, 3), (2, 1, 3), (3, 2, 1)])
def test_the_fastest_is_chosen_and_remembered(times):
    best = CONFIGS[times.index(1)]
    assert choose(*times) == (best, 3)
    assert choose() == (best, 0)
    forget()
    assert choose() == (best, 0)
    assert choose(3, 1, 2, key="another kernel") == (CONFIGS[1], 3)


def test_off_unless_asked_for(monkeypatch):
    def found():
        return autotune.fastest(torch.empty(0), lambda: "kernel", CONFIGS, CONFIGS[2], lambda c: c)

    monkeypatch.setattr(autotune, "milliseconds", never)
    assert found() == CONFIGS[2]
    with fastrcn.use_autotune(False, timer=never):
        assert found() == CONFIGS[2]
    assert not file().exists()
    times = iter((3, 1, 2))
    monkeypatch.setattr(autotune, "milliseconds", lambda launch: next(times))
    monkeypatch.setenv("FASTRCN_AUTOTUNE", "1")
    with fastrcn.use_autotune(False):
        assert found() == CONFIGS[2]
    assert found() == CONFIGS[1]
    monkeypatch.setenv("FASTRCN_AUTOTUNE", "yes")
    with pytest.raises(ValueError, match="FASTRCN_AUTOTUNE: expected 0 or 1, got 'yes'"):
        found()


def test_one_candidate_needs_no_measurement():
    assert choose(candidates=CONFIGS[1:2]) == (CONFIGS[1], 0)


def test_the_file_names_gpu_and_versions(monkeypatch, tmp_path):
    choose(1, 2, 3)
    name = f"autotune-NVIDIA_Made_Up_1-sm90-triton{triton.__version__}-fastrcn{fastrcn.__version__}.json"
    assert file() == tmp_path / "cache" / name
    assert json.loads(file().read_text()) == {"kernel": list(astuple(CONFIGS[0]))}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**{**vars(GPU), "name": "B"})
    )
    assert choose(3, 2, 1) == (CONFIGS[2], 3)


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff"], ids=["cut", "list", "bytes"])
def test_a_corrupt_file_is_told_and_replaced(content):
    file().parent.mkdir()
    file().write_bytes(content)
    with pytest.warns(UserWarning, match="cannot be read") as told:
        assert choose(2, 1, 3) == (CONFIGS[1], 3)
    assert len(told) == 1
    assert str(file()) in str(told[0].message)
    forget()
    assert choose() == (CONFIGS[1], 0)


def test_a_folder_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    (tmp_path / "in_the_way").touch()
    monkeypatch.setenv("FASTRCN_CACHE", str(tmp_path / "in_the_way"))
    with pytest.warns(UserWarning, match=re.escape(str(file()))) as told:
        assert choose(2, 1, 3) == (CONFIGS[1], 3)
    assert {"cannot be read", "cannot be written"} == {str(w.message).split(" (")[0].split("json ")[1] for w in told}
    assert choose() == (CONFIGS[1], 0)


@pytest.mark.parametrize("stale", [[1, 2, 3], "fast", None])
def test_a_choice_that_is_no_candidate_any_more(stale):
    file().parent.mkdir()
    file().write_text(json.dumps({"kernel": stale, "other": 1}))
    assert choose(3, 2, 1) == (CONFIGS[2], 3)
    assert json.loads(file().read_text()) == {"kernel": list(astuple(CONFIGS[2])), "other": 1}


def test_nothing_is_measured_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(autotune, "capturing", lambda tensor: True)
    assert choose() == (CONFIGS[0], 0)
    assert not file().exists()
    monkeypatch.setattr(autotune, "capturing", lambda tensor: False)
    assert choose(3, 2, 1) == (CONFIGS[2], 3)
    monkeypatch.setattr(autotune, "capturing", lambda tensor: True)
    assert choose() == (CONFIGS[2], 0)


def test_what_needs_too_much_of_a_processor_is_left_out(monkeypatch):
    from triton.runtime.errors import OutOfResources

    def bench(launch, return_mode):
        assert return_mode == "median"
        return launch()

    monkeypatch.setattr("triton.testing.do_bench", bench)
    monkeypatch.setenv("FASTRCN_AUTOTUNE", "1")

    def chosen(key, too_large):
        def start(config):
            def launch():
                if config in too_large:
                    raise OutOfResources(1, 0, "shared memory")
                return config.block_m

            return launch

        return autotune.fastest(torch.empty(0), lambda: key, CONFIGS, CONFIGS[0], start)

    assert chosen("a", CONFIGS[1:2]) == CONFIGS[2]
    assert chosen("b", CONFIGS) == CONFIGS[0]
    assert list(json.loads(file().read_text())) == ["a"]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_processes_that_write_at_once(one_thread):
    """None loses what another wrote, and under one key all have the same; a later process measures nothing."""
    shared = [f"shared{n}" for n in range(20)]
    keys = [[k for n in range(20) for k in (f"own{best}.{n}", shared[n])] for best in range(4)]
    configs = [Config(64, c, 64, 4, 3) for c in (16, 32, 64, 128)]

    def write(best):
        warnings.simplefilter("error")

        def timer(n):
            time.sleep(0.001)  # the others' turn
            return abs(n - best)

        with fastrcn.use_autotune(timer=timer):
            found = [autotune.fastest(torch.empty(0), lambda: k, configs, None, configs.index) for k in keys[best]]  # noqa: B023
        return [configs.index(config) for config in found]

    found = at_once(write, 4)
    assert [{*indices[0::2]} for indices in found] == [{0}, {1}, {2}, {3}]
    assert all(indices[1::2] == found[0][1::2] for indices in found)
    assert set(json.loads(file().read_text())) == {key for own in keys for key in own}
    assert sorted(os.listdir(file().parent)) == sorted([file().name, file().with_suffix(".lock").name])
    with fastrcn.use_autotune(timer=never):
        for key, index in zip(keys[0], found[0], strict=True):
            assert autotune.fastest(torch.empty(0), lambda: key, configs, None, None) == configs[index]  # noqa: B023
