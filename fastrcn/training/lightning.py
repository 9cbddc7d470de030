"""Runs by Lightning's Trainer in place of the package's own loop: the same model, data, order, losses and numbers."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from fastrcn.training import config as configs
from fastrcn.training.batches import EpochBatches, loader, one_by_one
from fastrcn.training.checkpoint import random_state, seed_random_state, set_random_state
from fastrcn.training.loop import optimizer_of, schedule_of
from fastrcn.training.processes import Processes
from fastrcn.training.tasks import task_of

try:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.utilities import rank_zero_info
except ImportError as error:
    raise ImportError('Lightning is not installed: pip install "fastrcn[lightning]"') from error

OF_TRAINER = ("save_every", "tensorboard", "device", "threads", "parallel", "shard")
"""Fields of a ``Config`` for which Lightning has callbacks, loggers, accelerators and strategies."""


def trainer_arguments(config) -> dict[str, Any]:
    """What a ``Config`` says to Lightning: ``Trainer(**trainer_arguments(config), strategy="ddp", devices=2)``."""
    validated = config.validation or config.hold_out
    return {
        "max_epochs": config.epochs,
        "precision": {"none": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[config.amp],
        "gradient_clip_val": config.clip_norm,
        "accumulate_grad_batches": 1,
        "sync_batchnorm": config.sync_batch_norm,
        "default_root_dir": config.out,
        "limit_val_batches": None if validated else 0,
    }


class TrainingModule(LightningModule):
    """A run's model with its loss, data, optimizer and learning rates, for ``Trainer(...).fit(module)``.

    Clips, their order and the random numbers are those of ``fastrcn.training.loop``, in one process or with the
    strategy "ddp", also after a checkpoint between two steps of an epoch. Logged are ``loss`` (each step),
    ``training_loss`` (each epoch), both means over the processes, and the numbers of the task's summary of the
    validation of all processes; ``summary`` is the whole of the last one, its lists too.

    Args:
        config: a ``Config``, or its fields by name, as checkpoints keep it for ``load_from_checkpoint``.
        facts: what a run has found out about its data (a task's ``facts``); None to read them.
    Raises: ValueError naming the field, also for those that Lightning's Trainer decides; what data and model raise.
    """

    def __init__(self, config, facts=None):
        super().__init__()
        config = (configs.from_dict(config) if isinstance(config, dict) else config).check()
        config.must_be_usual(OF_TRAINER, " with Lightning, whose Trainer decides it")
        self.config, self.task = config, task_of(config, facts)
        self._data = self.task.read() if facts is None else None
        self.objective = self.task.build(load=facts is None)
        self.save_hyperparameters({"config": dataclasses.asdict(config), "facts": self.task.facts})
        self.summary: dict[str, Any] = {}
        self._records: dict[int, Any] = {}
        self._epochs: _Epochs | None = None
        self._saved: dict[str, Any] = {}

    def setup(self, stage):
        """Reads what data there are, unless that is done."""
        if self._data is None:
            self._data = self.task.read()
        for note in self.task.notes:  # what was left out
            rank_zero_info(note)

    def forward(self, *parts):
        """Scores of clips before softmax (N,num_classes), or a forecast, as ``tasks.Classifier`` and ``Forecaster``."""
        return self.objective(*parts)

    def configure_optimizers(self) -> Any:
        """The optimizer, and a learning rate for every step. ValueError for a Trainer that differs from ``config``."""
        expected = trainer_arguments(self.config)
        for name in ("max_epochs", "precision", "gradient_clip_val", "accumulate_grad_batches"):
            if (got := getattr(self.trainer, name)) != expected[name]:
                use = "Trainer(**trainer_arguments(config), ...)"
                raise ValueError(f"trainer: expected {name}={expected[name]!r}, got {got!r}: {use}")
        optimizer = optimizer_of(self.config, [p for p in self.parameters() if p.requires_grad])
        schedule = schedule_of(self.config, optimizer, self.config.epochs * self._batches().steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _processes(self):
        return Processes(self.global_rank, self.trainer.world_size, self.device)

    def _batches(self):
        config, data = self.config, self._read()[0]
        return EpochBatches(len(data), config.batch_size, config.seed, self.global_rank, self.trainer.world_size)

    def _read(self):
        assert self._data is not None
        return self._data

    def _pinned(self):
        return self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self):
        """This process's share of every step's clips."""
        self._epochs = _Epochs(self._read()[0], self._batches(), self.config.workers, self._pinned())
        if self._goes_on():  # Lightning loads it within an epoch only, not between two
            self._epochs.load_state_dict(self._saved["epochs"])
        return self._epochs

    def _goes_on(self):
        return self.trainer.global_step > 0 and "epochs" in self._saved

    def val_dataloader(self):
        """This process's share of the validation, item by item; none where the run has no validation."""
        data, processes = self._read()[1], self._processes()
        if data is None:
            return []
        if len(data) < processes.count:
            raise ValueError(f"validation: expected an item for each of {processes.count} processes, got {len(data)}")
        indices = range(processes.rank, len(data), processes.count)
        return _Numbered(indices, one_by_one(data, indices, self.config.workers, self._pinned()))

    def on_train_start(self):
        """Weights are alike in all processes; dropout and the like are not."""
        processes = self._processes()
        seed_random_state(self.config.seed + processes.rank)
        if self._goes_on() and len(self._saved["random"]) == processes.count:
            set_random_state(self._saved["random"][processes.rank])

    def training_step(self, batch, batch_idx):
        """The loss of a batch."""
        loss = self.task.loss(self.objective, batch)
        each = len(batch[0])
        self.log("loss", loss, on_step=True, on_epoch=False, prog_bar=True, sync_dist=True, batch_size=each)
        self.log("training_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=each)
        return loss

    def on_validation_epoch_start(self):
        """Forgets the last epoch's records, and takes the buffers that a checkpoint holds."""
        self._records = {}
        self._processes().share_buffers(self.objective)

    def validation_step(self, batch, batch_idx):
        """The task's record of an item."""
        index, item = batch
        self._records[index] = self.task.record(self.objective, item)

    def on_validation_epoch_end(self):
        """What the records of all processes come to."""
        if self.trainer.sanity_checking:
            return
        together = {index: record for part in self._processes().gather(self._records) for index, record in part.items()}
        self.summary = self.task.summary([together[index] for index in sorted(together)])
        numbers = {name: value for name, value in self.summary.items() if not isinstance(value, list)}
        self.log_dict(numbers, sync_dist=True)  # alike in all

    def on_save_checkpoint(self, checkpoint):
        """Adds what a run needs to go on as if it had not stopped: its place in the data, and the random numbers."""
        random, epochs = self._processes().gather(random_state()), self._epochs
        checkpoint["fastrcn"] = {
            "random": random,
            "epochs": epochs.state_dict() if epochs else {"epoch": 0, "begin": 0},
        }

    def on_load_checkpoint(self, checkpoint):
        """For a run that goes on."""
        self._saved = checkpoint["fastrcn"]


class _Epochs:
    """The batches of an epoch, then those of the next: Lightning keeps in its checkpoints which have been taken."""

    def __init__(self, dataset, batches, workers, pin):
        self.dataset, self.batches = dataset, batches
        self.loader = loader(dataset, batches, workers, pin)
        self._loaded = False

    def __len__(self):
        return self.batches.steps

    def __iter__(self) -> Iterator[Any]:
        batches = self.batches
        if batches.begin and not self._loaded:  # the last epoch was cut short
            batches.epoch, batches.begin = batches.epoch + 1, 0
        self._loaded = False
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(batches.epoch)
        for batch in self.loader:
            batches.begin += 1
            if batches.begin == batches.steps:
                batches.epoch, batches.begin = batches.epoch + 1, 0
            yield batch

    def state_dict(self):
        """The epoch, and how many of its steps are done."""
        return {"epoch": self.batches.epoch, "begin": self.batches.begin}

    def load_state_dict(self, state):
        """Go on from there."""
        self.batches.epoch, self.batches.begin = state["epoch"], state["begin"]
        self._loaded = True


class _Numbered:
    """Items with their numbers in the dataset."""

    def __init__(self, indices, items):
        self.indices, self.items = indices, items

    def __len__(self):
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return zip(self.indices, self.items, strict=True)
