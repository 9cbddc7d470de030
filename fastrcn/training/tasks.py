"""The two things that can be trained: classes of videos, and forecasts of frames."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastrcn import data, metrics
from fastrcn.training.build import Clips, build_model, forecasts, hold_out_videos, is_digits, windows
from fastrcn.training.config import OF_CLASSIFIERS, OF_FORECASTERS
from fastrcn.training.recipes import forecast_loss


class Classifier(nn.Module):
    """A model with what feeds it: parts of a batch as the dataset gives them -> its loss, or its scores.

    Shapes: frames (N,T,3,H,W) from 0 to 1, or flow (N,T,2,H,W) in pixels, or both; labels (N,).
    """

    def __init__(self, model, recipe, mean, std):
        super().__init__()
        self.model, self.recipe = model, recipe
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, *parts, labels=None):
        """The loss of clips with labels; without them the scores before softmax (N,num_classes)."""
        if self.recipe.inputs != "flow":
            mean, std = (parts[0].new_tensor(values)[:, None, None] for values in (self.mean, self.std))
            parts = ((parts[0] - mean) / std, *parts[1:])
        arguments = self.recipe.arrange(self.model, *parts)
        if labels is None:
            return self.recipe.scores(self.model, arguments)
        return self.recipe.loss(self.model, arguments, labels)


class Forecaster(nn.Module):
    """A forecaster with its loss. Shapes: past (N,J,C,H,W), future (N,K,C,H,W) and which of it is known."""

    def __init__(self, model, horizon, loss):
        super().__init__()
        self.model, self.horizon, self.loss = model, horizon, loss

    def forward(self, past, future=None, valid=None):
        """The loss of windows; without their future the forecast."""
        predicted = self.model(past, self.horizon)
        return predicted if future is None else forecast_loss(predicted, future, valid, self.loss)


class Classification:
    """Videos with classes.

    Attributes: decides: what the best model is best in, and whether more is better. facts: what the data to train on
    have told, for checkpoints: the names of the classes. notes: lines of what was left out of the data, to be shown.
    """

    decides = ("accuracy", True)

    def __init__(self, config, facts=None):
        self.config, self.clips, self.facts = config, Clips(config), facts or {"classes": None}
        self.notes: list[str] = []

    @property
    def classes(self) -> Any:
        """Their names."""
        return self.facts["classes"]

    def read(self) -> tuple[Any, Any]:
        """(dataset to train on, dataset of validation or None); their videos decide the classes."""
        config = self.config
        train = self.clips.read(config.data, train=True, classes=self.classes, skip_unreadable=config.skip_unreadable)
        self.facts = {"classes": train.classes}
        self.notes += _left_out(train, "the data")
        if config.validation:
            return train, self.read_all(config.validation, skip_unreadable=config.skip_unreadable)
        if not config.hold_out:
            return train, None
        numbers, kept = hold_out_videos(train, config.hold_out, config.seed)
        train, kept = train.select(numbers), train.select(kept)
        kept.train = False
        without = sorted(set(range(len(train.classes))) - {entry.label for entry in kept.entries})
        if without:
            names = ", ".join(train.classes[label] for label in without)
            self.notes.append(f"held out: no video of {names}: too few for a share of {config.hold_out}")
        return train, kept

    def read_all(self, source, skip_unreadable=False) -> Any:
        """The dataset of a source for tests."""
        found = self.clips.read(source, train=False, classes=self.classes, skip_unreadable=skip_unreadable)
        self.notes += _left_out(found, "the data for tests")
        return found

    def build(self, load=True):
        """The model with its loss. load: with the file of weights that the run begins with."""
        model = build_model(self.config, load, num_classes=len(self.classes))
        mean, std = self.clips.recipe.colors
        return Classifier(model, self.clips.recipe, self.config.mean or mean, self.config.std or std)

    def loss(self, objective, batch):
        """Of a batch of the dataset."""
        *parts, labels = batch
        return objective(*parts, labels=labels)

    def record(self, objective, item):
        """A video's label and the probabilities of its classes (num_classes,), averaged over its clips and crops."""
        *parts, label = item
        chunks = zip(*(part[0].split(self.config.batch_size) for part in parts), strict=True)
        scores = torch.cat([objective(*chunk).float() for chunk in chunks])
        found = data.average_scores(scores[None], self.clips.protocol.average)[0]
        return int(label), (found if self.clips.protocol.average == "prob" else found.softmax(0)).cpu()

    def rows(self, dataset, records):
        """A table of every video with its class and the likeliest one, which ``evaluate`` writes."""
        table: list[tuple] = [("path", "class", "predicted", "probability", "probability_of_class")]
        for entry, (label, found) in zip(dataset.entries, records, strict=True):
            best = int(found.argmax())
            names = self.classes[label], self.classes[best]
            table.append((str(entry.path), *names, f"{float(found[best]):.6f}", f"{float(found[label]):.6f}"))
        return table

    def summary(self, records):
        """What the records of all videos come to."""
        labels = torch.tensor([label for label, _ in records])
        scores = torch.stack([found for _, found in records])
        result = {
            "validation_loss": float(F.nll_loss(scores.double().clamp_min(1e-300).log(), labels)),
            "accuracy": metrics.top_k_accuracy(scores, labels),
            "mean_class_accuracy": metrics.mean_class_accuracy(scores, labels)[0],
        }
        if scores.shape[1] > 5:
            result["top_5_accuracy"] = metrics.top_k_accuracy(scores, labels, 5)
        return result


class Forecasting:
    """Sequences of frames, whose end is to be predicted from their beginning.

    Attributes: as of ``Classification``; facts: the channels of a frame, and the offset and the scale of each where
    values are normalized.
    """

    decides = ("validation_loss", False)

    def __init__(self, config, facts=None):
        self.config, self.facts = config, facts or {}
        self.notes: list[str] = []

    def read(self) -> tuple[Any, Any]:
        """(dataset to train on, dataset of validation or None)."""
        config = self.config
        if config.hold_out and is_digits(config.data):
            raise ValueError(f"hold_out: expected 0 with {config.data}: name a validation, got {config.hold_out}")
        train, kept = windows(config, config.data, train=True, skip_unreadable=config.skip_unreadable), None
        self.notes += _left_out(train, "the data")
        if config.hold_out:
            train, kept = train.split(config.hold_out)
        if not self.facts:
            self.facts = {"channels": train[0][0].shape[1]}
            if config.normalize:
                offset, scale = data.statistics(train)
                self.facts |= {"offset": offset.tolist(), "scale": scale.tolist()}
        if config.validation:
            kept = self.read_all(config.validation, config.skip_unreadable)
        elif kept is not None:
            kept = self.normalized(kept)
        return self.normalized(train), kept

    def normalized(self, windows) -> Any:
        """Windows with the training data's offset and scale."""
        return windows.normalized(self.facts["offset"], self.facts["scale"]) if "scale" in self.facts else windows

    def in_units(self, frames):
        """Frames (T,C,H,W) of such windows in the data's own units."""
        if "scale" not in self.facts:
            return frames
        offset, scale = (frames.new_tensor(self.facts[name])[:, None, None] for name in ("offset", "scale"))
        return frames * scale + offset

    def read_all(self, source, skip_unreadable=False) -> Any:
        """The dataset of a source for tests. ValueError where its frames have other channels than in training."""
        found = windows(self.config, source, train=False, skip_unreadable=skip_unreadable)
        self.notes += _left_out(found, "the data for tests")
        channels = found[0][0].shape[1]
        if channels != self.facts["channels"]:
            raise ValueError(f"data: expected frames of {self.facts['channels']} channels in {source}, got {channels}")
        return self.normalized(found)

    def build(self, load=True):
        """The model with its loss. load: with the file of weights that the run begins with."""
        model = build_model(self.config, load, in_channels=self.facts["channels"])
        return Forecaster(model, self.config.future, self.config.loss)

    def loss(self, objective, batch):
        """Of a batch of the dataset."""
        return objective(*batch)

    def record(self, objective, item):
        """A window's loss, how many of its values are known, and sums over these at each step (4,K).

        The sums are of the squared and the absolute error, and of the squared error of the last frame, in the data's
        units, and of ones.
        """
        past, future, valid = item
        predicted = objective(past).float()
        copied = past[:, -1:].expand_as(future)
        loss = forecast_loss(predicted, future, valid, self.config.loss)
        predicted, future, copied = (self.in_units(frames) for frames in (predicted, future, copied))
        errors = [(predicted - future).square(), (predicted - future).abs(), (copied - future).square()]
        sums = [e.double().masked_fill(~valid, 0).sum((0, 2, 3, 4)).cpu() for e in (*errors, valid.double())]
        return float(loss), int(valid.sum()), torch.stack(sums)

    def rows(self, dataset, records):
        """A table of every window with its error, which ``evaluate`` writes."""
        table: list[tuple] = [("window", "mse", "mse_of_last_frame")]
        for number, (_, known, sums) in enumerate(records):
            total = sums.sum(1) / max(known, 1)
            table.append((number, f"{float(total[0]):.8g}", f"{float(total[2]):.8g}"))
        return table

    def summary(self, records):
        """What the records of all windows come to: means over all known values; those of each step as lists."""
        count = sum(known for _, known, _ in records)
        sums = torch.stack([found for _, _, found in records]).sum(0)
        total = sums.sum(1)
        return {
            "validation_loss": sum(loss * known for loss, known, _ in records) / max(count, 1),
            "mse": float(total[0] / total[3]),
            "mae": float(total[1] / total[3]),
            "mse_of_last_frame": float(total[2] / total[3]),
            "mse_of_steps": (sums[0] / sums[3]).tolist(),
        }


def task_of(config, facts=None):
    """The task of the run's model. facts: what a run has found out about its data.

    Raises: ValueError for a field that only the other task has.
    """
    kind, foreign = (Forecasting, OF_CLASSIFIERS) if forecasts(config) else (Classification, OF_FORECASTERS)
    config.must_be_usual(foreign, f", it has no effect on {config.model}")
    return kind(config, facts)


def _left_out(dataset, part):
    """Lines that name and count what a dataset had to leave out."""
    skipped = getattr(dataset, "skipped", ())
    if not skipped:
        return []
    total = len(skipped) + len(getattr(dataset, "sequences", None) or dataset.entries)
    lines = [f"left out of {part}: {why}" for _, why in skipped]
    return [*lines, f"left out of {part}: {len(skipped)} of {total}"]
