"""Lightning in two processes of its own: ``python -m tests.helpers.lightning_run FIELDS RESULT``, two JSON files.

The first has a run's fields; to the second goes what its first process has seen.
"""

import json
import sys
from pathlib import Path

import torch

from tests.helpers.lightning_module import Trainer, TrainingModule, losses_of, quiet


def main(fields, result):
    torch.set_num_threads(1)
    module = TrainingModule(json.loads(Path(fields).read_text()))
    trainer = Trainer(**quiet(module.config), strategy="ddp", devices=2, enable_checkpointing=False)
    seen = {"losses": losses_of(trainer, module), "summary": module.summary, "processes": trainer.world_size}
    if trainer.is_global_zero:
        Path(result).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
