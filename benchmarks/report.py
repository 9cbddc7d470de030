"""Results as JSON, as a table and as a picture."""

import json


def table(results, facts) -> str:
    """Markdown: a row for each contestant of each case; times of a training step, or of inference where it says so."""
    backend = f"backend {facts['backend']}" if facts["backend"] else "automatic backend"
    on_gpu = any("device_s" in r["contestants"]["fastrcn"] for r in results)
    clock = "by the GPU's clock, medians" if on_gpu else "median of the rounds' ratios"
    lines = [
        f"fastrcn {facts['fastrcn']} at {facts['commit']}, PyTorch {facts['torch']}, {facts['dtype']}, "
        f"{facts['device']}, {facts['threads']} threads, {backend}. Ceilings measured in this run: "
        f"{facts['flops'] / 1e9:.0f} GFLOP/s (matrix product), {facts['bandwidth'] / 1e9:.1f} GB/s (copy).",
        "",
        f"`ratio`: the contestant's time over fastrcn's, {clock}; above 1 fastrcn is faster. "
        "`of floor`: the floor max(FLOP / matrix rate, bytes / copy rate) over the time.",
        "",
        f"| case | contestant | forward ms | step ms (min-max) |{' GPU forward ms | GPU step ms (min-max) |' * on_gpu}"
        " ratio | of floor | peak MB | memory | note |",
        "|---|---|---|---|---|---|---|---|---|" + "---|---|" * on_gpu,
    ]
    if on_gpu:
        lines[3:3] = [
            "`forward`, `step`: until the GPU is done, as Python sees it; `GPU`: by its own clock, with steps queued. "
            "`ratio` and `of floor` are of the latter."
        ]
    for result in results:
        ours = result["contestants"]["fastrcn"]
        for name, c in result["contestants"].items():
            label = c["label"]
            if "total_s" not in c:
                why = c.get("unavailable") or c.get("error")
                if "unavailable" not in c:
                    lines.append(f"| {result['case']} | {label} | | |{' | |' * on_gpu} | | | | {why} |")
                continue
            times = _times(c["forward_s"], c["total_s"], c["spread_s"])
            if on_gpu:
                times += " | " + _times(c["device_forward_s"], c["device_s"], c["device_spread_s"])
            peak = f"{c['memory'] / 2**20:.0f}" if c.get("memory") else ""
            share = f"{100 * ours['memory'] / c['memory']:.0f} %" if c.get("memory") and ours.get("memory") else ""
            note = result["note"] if name == "fastrcn" else ""
            if c.get("compile_s"):
                note = f"compiled in {c['compile_s']:.0f} s"
            if "error" in c:
                note = c["error"]
            lines.append(
                f"| {result['case']} | {label} | {times} | {c['ratio']:.2f} | {100 * c['floor_share']:.0f} % "
                f"| {peak} | {share} | {note} |"
            )
    lines += ["", "`memory`: fastrcn's peak as a share of the contestant's."]
    return "\n".join(lines) + "\n"


def _times(forward, step, spread):
    low, high = (1e3 * s for s in spread)
    return f"{1e3 * forward:.2f} | {1e3 * step:.2f} ({low:.2f}-{high:.2f})"


def losing(results):
    """(case, contestant, ratio) wherever fastrcn was slower."""
    return [
        (r["case"], c["label"], c["ratio"])
        for r in results
        for name, c in r["contestants"].items()
        if c.get("ratio", 1) < 1 and name not in ("recompute", "last")
    ]


def draw(results, path):
    """Bars of the ratios, a group for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    present = {n: c["label"] for r in results for n, c in r["contestants"].items() if "ratio" in c and n != "fastrcn"}
    height = 0.8 / max(1, len(present))
    figure, axis = plt.subplots(figsize=(9, 1 + 0.14 * (len(present) + 1) * len(results)))
    for k, (name, label) in enumerate(present.items()):
        rows = [
            (i, r["contestants"][name]["ratio"])
            for i, r in enumerate(results)
            if "ratio" in r["contestants"].get(name, {})
        ]
        axis.barh(
            [i + (k - len(present) / 2 + 0.5) * height for i, _ in rows], [v for _, v in rows], height, label=label
        )
    axis.axvline(1, color="k", lw=1)
    axis.set_yticks(range(len(results)), [r["case"] for r in results])
    axis.invert_yaxis()
    axis.set_xlabel("time over fastrcn's (above 1: fastrcn is faster)")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_tables(results, facts, folder, stem):
    """Write STEM.json and STEM.md; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}{end}" for end in (".json", ".md")]
    paths[0].write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    paths[1].write_text(table(results, facts))
    return paths


def write(results, facts, folder, stem):
    """Write STEM.json, STEM.md and STEM.png; returns their paths."""
    paths = [*write_tables(results, facts, folder, stem), folder / f"{stem}.png"]
    try:
        draw(results, paths[2])
    except ModuleNotFoundError as error:
        print(f"no picture: {error}")
        paths.pop()
    return paths
