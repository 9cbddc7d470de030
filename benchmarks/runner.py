"""Runs the contestants of a case in turns, so that a machine that changes its speed favours none of them."""

import statistics
import time

import torch

from benchmarks import device_time
from benchmarks.case import NAMES, Unavailable, forward, make, queue_step, training_step
from fastrcn.measure import can_measure_memory, peak_memory_in_new_process
from fastrcn.ops.tf32 import allows_tf32


def measure_ceilings(dtype, device):
    """(FLOP per second of a large matrix product, bytes per second of a large copy), best of several. A product in
    float32 is rounded to TF32 where convolutions are."""
    on_gpu = device_time.has_clock(device)
    n = 8192 if on_gpu else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    source = torch.randn((1 << 28) if on_gpu else (1 << 25), device=device)
    target = torch.empty_like(source)

    def best(work):
        if on_gpu:
            return device_time.seconds(work)[1]
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    before = torch.get_float32_matmul_precision()
    if on_gpu:
        torch.set_float32_matmul_precision("high" if allows_tf32() else "highest")
    try:
        product = best(lambda: a @ a)
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * n**3 / product, 2 * source.numel() * 4 / best(lambda: target.copy_(source))


def _step_for_memory(name, case, dtype, device, threads):
    torch.set_num_threads(threads)
    module, _ = make(case, name, dtype, device)
    x = case.make_input(dtype, device)
    return lambda: training_step(module, x, case.train)[1]


def peak_memory(name, case, dtype, device):
    """Peak bytes of a training step; None where this system does not tell."""
    if torch.device(device).type == "cuda":
        work = _step_for_memory(name, case, dtype, device, torch.get_num_threads())
        work()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not can_measure_memory():
        return None
    return peak_memory_in_new_process(_step_for_memory, name, case, dtype, device, torch.get_num_threads())


def run_case(case, names, dtype, device, ceilings, rounds=5, memory=True):
    """Measure one case. Returns plain data: per contestant times, ratio, memory, or why it did not take part. On a GPU
    both clocks' times; ratio and share of the floor then are those of the GPU's."""
    modules, results = {}, {}
    for name in names:
        results[name] = {"label": NAMES[name]}
        try:
            modules[name], compiling = make(case, name, dtype, device)
            results[name]["compile_s"] = compiling
        except Unavailable as reason:
            results[name]["unavailable"] = str(reason)
        except Exception as error:  # a baseline that fails is a row of the table, not the end of the run
            results[name]["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    x = case.make_input(dtype, device)
    truth = training_step(modules["fastrcn"], x, case.train)[0].detach()
    gradient = None if x.grad is None else x.grad.clone()
    for name, module in modules.items():  # warms up, and checks that all compute the same
        for _ in range(2):
            output = training_step(module, x, case.train)[0].detach()
        errors = [_error(output, truth)] + ([] if gradient is None else [_error(x.grad, gradient)])
        results[name]["difference"] = max(errors)
        if not all(error <= most for error, most in zip(errors, case.agreement(dtype, device), strict=False)):
            results[name]["error"] = f"disagrees with fastrcn by {max(errors):.1e}"
        del output
    times = {name: [] for name in modules}
    for k in range(rounds):
        order = list(modules.items())
        for name, module in order[::-1] if k % 2 else order:  # who comes after whom matters to caches and fresh memory
            begin = time.perf_counter()
            forward = training_step(module, x, case.train)[1]
            times[name].append((forward, time.perf_counter() - begin))
    factor = case.passes() if case.train else 1
    floor = max(factor * case.flops() / ceilings[0], factor * case.bytes(x.element_size()) / ceilings[1])
    for name, pairs in times.items():
        totals = [total for _, total in pairs]
        ratios = [total / ours for (_, total), (_, ours) in zip(pairs, times["fastrcn"], strict=True)]
        results[name] |= {
            "forward_s": statistics.median(f for f, _ in pairs),
            "total_s": statistics.median(totals),
            "spread_s": [min(totals), max(totals)],
            "ratio": statistics.median(ratios),
            "floor_share": floor / statistics.median(totals),
        }
    if device_time.has_clock(device):
        _add_device_times(modules, results, x, case.train, floor)
    for name in modules:
        if memory and case.train:
            results[name]["memory"] = peak_memory(name, case, dtype, device)
    return {"case": case.name, "note": case.note, "train": case.train, "floor_s": floor, "contestants": results}


def _add_device_times(modules, results, x, train, floor):
    """The GPU's times, and ratio and share of the floor by them."""
    forwards, steps = (
        {name: device_time.seconds(lambda m=module, work=work: work(m, x, train)) for name, module in modules.items()}
        for work in (forward, queue_step)
    )
    for name, (step, least, most) in steps.items():
        results[name] |= {
            "device_forward_s": forwards[name][0],
            "device_s": step,
            "device_spread_s": [least, most],
            "ratio": step / steps["fastrcn"][0],
            "floor_share": floor / step,
        }


def _error(found, truth):
    return float((found.double() - truth.double()).norm() / truth.double().norm())
