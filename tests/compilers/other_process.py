"""Runs code in a process that has only what the code imports."""

import subprocess
import sys

import torch


def run_there(code, folder):
    """What the code leaves in ``results``; it runs in ``folder``, with torch and fastrcn imported."""
    code = f"import torch, fastrcn\nresults = {{}}\n{code}\ntorch.save(results, 'results.pt')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(folder / "results.pt")
