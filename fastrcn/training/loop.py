"""The training loop: steps, validation, checkpoints, and going on from one."""

import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fastrcn._version import __version__
from fastrcn.files import write_text_at_once
from fastrcn.training import checkpoint
from fastrcn.training import config as configs
from fastrcn.training.batches import EpochBatches, loader, one_by_one
from fastrcn.training.journal import Journal
from fastrcn.training.listing import DATA, check_listing, listing
from fastrcn.training.processes import gathered, share, start, synchronize
from fastrcn.training.tasks import task_of

CONFIG, ENVIRONMENT, LAST, BEST = "config.yaml", "environment.json", "last.pt", "best.pt"


def optimizer_of(config, parameters):
    """The optimizer that the configuration names."""
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **options)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer](parameters, **options)


def schedule_of(config, optimizer, steps):
    """The learning rate of every step: a linear rise over ``warmup`` steps, then as ``schedule`` says."""

    def factor(step):
        if step < config.warmup:
            return (step + 1) / config.warmup
        if config.schedule == "constant":
            return 1.0
        done = (step - config.warmup) / max(steps - config.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def autocast(config, device):
    """The context of mixed precision."""
    kind = {"none": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.amp]
    return torch.autocast(device.type, dtype=kind, enabled=kind is not None)


def to_device(batch, device):
    """A batch whose tensors are on a device."""
    return [part.to(device, non_blocking=True) for part in batch]


@torch.no_grad()
def measure(task, objective, dataset, processes, progress=False):
    """The task's records of every item of a dataset, in its order, in every process; each process makes its share."""
    indices = range(processes.rank, len(dataset), processes.count)
    was_training = objective.training
    objective.eval()
    processes.share_buffers(objective)  # those that a checkpoint holds
    records = {}
    items = one_by_one(dataset, indices, task.config.workers, processes.device.type == "cuda")
    with gathered(objective), tqdm(total=len(indices), desc="testing", leave=False, disable=not progress) as bar:
        for index, item in zip(indices, items, strict=True):
            with autocast(task.config, processes.device):
                records[index] = task.record(objective, to_device(item, processes.device))
            bar.update()
    objective.train(was_training)
    together = {index: record for part in processes.gather(records) for index, record in part.items()}
    return [together[index] for index in range(len(dataset))]


class Run:
    """A training run in a folder; ``train`` makes one and lets it go on to its end.

    Args:
        config: a ``Config``. processes: those that share it.
        resume: go on where the folder's last checkpoint stands, if there is one.
    Raises: ValueError, FileExistsError where there is a run and it is not to be resumed, and what data and model raise.
    """

    def __init__(self, config, processes, resume=False):
        self.config, self.processes = config, processes
        self.folder = Path(config.out)
        there = self.folder / LAST
        if there.exists() and not resume:
            raise FileExistsError(f"out: there is a run in {self.folder}: resume it, or name another folder")
        found = checkpoint.load(there) if resume and there.exists() else None
        processes.wait()  # all have looked before the first one writes
        self.task = task_of(config)
        self.train_data, self.validation_data = self.task.read()
        self.batches = EpochBatches(
            len(self.train_data), config.batch_size, config.seed, processes.rank, processes.count
        )
        if processes.first:
            for note in self.task.notes:
                print(note, file=sys.stderr)
        self.listing = listing(self.train_data, self.validation_data)
        if found is not None:
            check_listing(self.folder, self.listing)
            if config.epochs < found["progress"]["epoch"]:
                done = found["progress"]["epoch"]
                raise ValueError(f"epochs: expected at least the {done} that are done, got {config.epochs}")
        objective = self.task.build(load=found is None)
        if config.sync_batch_norm:
            objective = synchronize(objective, processes)
        objective.to(processes.device).train()
        self.module = share(objective, processes, config.parallel, config.shard)
        self.objective = getattr(self.module, "module", self.module)  # without DDP, for tests
        trained = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = optimizer_of(config, trained)
        self.schedule = schedule_of(config, self.optimizer, config.epochs * self.batches.steps)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.amp == "float16")
        self.progress = {"epoch": 0, "step": 0, "losses": [], "best": None, "last": {}}
        # Weights are alike in all processes; dropout and the like are not.
        checkpoint.seed_random_state(config.seed + processes.rank)
        if found is not None:
            self.progress = checkpoint.restore(
                found, self.module, self.optimizer, self.schedule, self.scaler, processes
            )
        self.journal: Any = None
        processes.once(self._write_what_it_is)

    def _write_what_it_is(self):
        """What makes the run again: its options, its data, and where it ran, an entry for every start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            "step": self.progress["step"],
            "epochs": self.config.epochs,
            "command": sys.argv,
            "fastrcn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "device": _name_of(self.processes.device),
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
        }
        place = self.folder / ENVIRONMENT
        before = json.loads(place.read_text()) if self.progress["step"] and place.exists() else []
        for name, content in (
            (DATA, self.listing),
            (CONFIG, configs.to_yaml(self.config)),
            (ENVIRONMENT, json.dumps([*before, environment], indent=1) + "\n"),
        ):
            write_text_at_once(self.folder / name, content)
        self.journal = Journal(self.folder, self.progress["step"], self.progress["epoch"], self.config.tensorboard)

    def go_on(self):
        """All steps that are left. Returns what the last validation (or epoch) came to."""
        config, progress = self.config, self.progress
        total = config.epochs * self.batches.steps
        reader = loader(self.train_data, self.batches, config.workers, self.processes.device.type == "cuda")
        with tqdm(
            total=total, initial=progress["step"], desc="training", unit="step", disable=not self.processes.first
        ) as bar:
            while progress["epoch"] < config.epochs:
                self._epoch(reader, bar)
        if self.journal is not None:
            self.journal.close()
        return progress["last"]

    def _epoch(self, reader, bar):
        progress = self.progress
        epoch = progress["epoch"]
        self.batches.epoch, self.batches.begin = epoch, len(progress["losses"])
        if hasattr(self.train_data, "set_epoch"):
            self.train_data.set_epoch(epoch)
        if len(self.batches):
            for batch in reader:
                self._step(to_device(batch, self.processes.device))
                bar.update()
                bar.set_postfix(epoch=epoch + 1, loss=f"{progress['losses'][-1]:.4f}")
                every = self.config.save_every
                if every and progress["step"] % every == 0 and len(progress["losses"]) < self.batches.steps:
                    self._save(LAST)
        if self.validation_data is not None and len(self.batches):
            self._save(LAST)  # so that what stops the validation does not cost the epoch
        self._end_of_epoch()

    def _step(self, batch):
        begun = time.perf_counter()
        config, device = self.config, self.processes.device
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.zero_grad()
        with autocast(config, device):
            loss = self.task.loss(self.module, batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        limit = math.inf if config.clip_norm is None else config.clip_norm
        norm: Any = torch.nn.utils.clip_grad_norm_(self.module.parameters(), limit)
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # with FSDP2 each has a part
        value = self.processes.mean(loss)
        progress = self.progress
        self._must_be_finite("loss", value, progress["step"] + 1)
        if not self.scaler.is_enabled():  # which leaves such a step out
            self._must_be_finite("gradient_norm", norm, progress["step"] + 1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        progress["step"] += 1
        progress["losses"].append(value)
        if self.journal is not None:
            self.journal.step(
                step=progress["step"], epoch=progress["epoch"] + 1, loss=value, learning_rate=rate, gradient_norm=norm,
                seconds=round(time.perf_counter() - begun, 4),
            )  # fmt: skip

    def _must_be_finite(self, name, value, step):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name}: step {step} came to {value}; a lower learning rate, clip_norm or amp=none may help; what was "
                f"saved before is in {self.folder}"
            )

    def _end_of_epoch(self):
        progress = self.progress
        last = {"training_loss": math.fsum(progress["losses"]) / len(progress["losses"])}
        deciding, more = "training_loss", False
        if self.validation_data is not None:
            records = measure(self.task, self.objective, self.validation_data, self.processes, self.processes.first)
            last |= self.task.summary(records)
            deciding, more = self.task.decides
        self._must_be_finite(deciding, last[deciding], progress["step"])
        progress["epoch"] += 1
        progress["losses"] = []
        progress["last"] = last
        best = progress["best"]
        better = best is None or (last[deciding] > best if more else last[deciding] < best)
        if better:
            progress["best"] = last[deciding]
        if self.journal is not None:
            numbers = {name: value for name, value in last.items() if not isinstance(value, list)}
            self.journal.epoch(epoch=progress["epoch"], step=progress["step"], **numbers)
        self._save(*((BEST, LAST) if better else (LAST,)))

    def _save(self, *names):
        contents = checkpoint.collect(
            self.module, self.optimizer, self.schedule, self.scaler, dict(self.progress), self.processes
        )
        contents["facts"] = self.task.facts
        if self.processes.first:
            for name in names:
                checkpoint.save(self.folder / name, contents)
        self.processes.wait()


def _name_of(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def train(config, resume=False):
    """Train as a ``Config`` says, in this process or in those that torchrun has started.

    Returns: what the last epoch came to. Raises: as ``Run``; FloatingPointError where the loss is no number any more.
    """
    with start(config.check().device, config.threads) as processes:
        return Run(config, processes, resume).go_on()
