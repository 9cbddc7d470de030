"""``python -m fastrcn train`` in the workers of Ray Train.

    python docs/scale-out/ray_train.py --num-workers 2 [--gpu] -- --model c3d --data videos --out run

What follows ``--`` are that command's flags. Run it in a folder that all nodes of the cluster have under the same name:
paths in the flags are relative to it, and Ray writes its own files to ``ray_results`` in it.
"""

import argparse
import os
import sys

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def train(options):
    """One worker: Ray has made the process group, which fastrcn joins."""
    from fastrcn.__main__ import main

    os.chdir(options["folder"])  # Ray begins in a folder of its own
    status = main(["train", *options["flags"]])
    if status:
        raise RuntimeError(f"python -m fastrcn train ended with {status}: see what this worker has printed")


def main():
    """Start the workers and wait for them."""
    parser = argparse.ArgumentParser(description="python -m fastrcn train in the workers of Ray Train.")
    parser.add_argument("--num-workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each of them")
    parser.add_argument("flags", nargs="*", help="of python -m fastrcn train, after --")
    args = parser.parse_args()
    device = "cuda" if args.gpu else "cpu"
    TorchTrainer(
        train,
        train_loop_config={"folder": os.getcwd(), "flags": ["--device", device, *args.flags]},
        scaling_config=ScalingConfig(num_workers=args.num_workers, use_gpu=args.gpu),
        run_config=RunConfig(storage_path=os.path.abspath("ray_results")),
    ).fit()


if __name__ == "__main__":
    sys.exit(main())
