"""Lightning, and its Trainer without bars and logs."""

# Lightning imports torchvision where it is installed, which fails beside another PyTorch than its own: this mends it.
from tests.helpers import torchvision_models  # noqa: F401 isort: skip
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fastrcn.training.lightning import TrainingModule, trainer_arguments

__all__ = ["ModelCheckpoint", "Trainer", "TrainingModule", "losses_of", "quiet"]


def quiet(config):
    """Arguments of a Trainer on the CPU that tells nothing."""
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return {**trainer_arguments(config), "accelerator": "cpu", **silent}


class _Losses(Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.found.append(float(trainer.callback_metrics["loss"]))


def losses_of(trainer, module, checkpoint=None):
    """Train; the loss of each step, as logged."""
    losses = _Losses()
    trainer.callbacks.insert(0, losses)
    trainer.fit(module, ckpt_path=checkpoint)
    return losses.found
