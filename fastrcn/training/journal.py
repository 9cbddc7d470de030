"""What a run tells: a CSV file of steps and one of epochs, a picture of the losses, and a log for TensorBoard."""

import csv
from pathlib import Path
from typing import Any

from fastrcn.files import csv_text, write_at_once, write_text_at_once

STEPS, EPOCHS, PICTURE = "steps.csv", "epochs.csv", "loss.png"


class Journal:
    """The logs of a run in a folder; what came after ``step`` and ``epoch`` (of a resumed run) is forgotten.

    Raises: ValueError naming a file that this does not go on.
    """

    def __init__(self, folder, step=0, epoch=0, tensorboard=False):
        self.folder = Path(folder)
        self._rows: dict[str, list[dict[str, str]]] = {
            STEPS: _keep(self.folder / STEPS, "step", step),
            EPOCHS: _keep(self.folder / EPOCHS, "epoch", epoch),
        }
        _pyplot()  # where it is missing that shows now, not after an epoch
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("tensorboard is not installed: pip install tensorboard") from error
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def step(self, **values):
        """A training step: its number and what belongs to it."""
        self._add(STEPS, values)

    def epoch(self, **values):
        """An epoch, its last step, what was measured after it; draws the losses anew."""
        self._add(EPOCHS, values)
        write_at_once(self.folder / PICTURE, self._draw)

    def _add(self, name, values):
        rows, path = self._rows[name], self.folder / name
        row = {key: _text(value) for key, value in values.items()}
        if rows and list(rows[0]) != list(row):
            raise ValueError(f"{path}: expected the columns {','.join(rows[0])}, got {','.join(row)}")
        rows.append(row)
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if len(rows) == 1:
                writer.writeheader()
            writer.writerow(row)
        if self._board is not None:
            for key, value in values.items():
                if key not in ("step", "epoch"):
                    self._board.add_scalar(f"{Path(name).stem}/{key}", value, values["step"])

    def _draw(self, place):
        plt = _pyplot()
        steps, epochs = self._rows[STEPS], self._rows[EPOCHS]
        figure, axis = plt.subplots(figsize=(8, 4.5))
        axis.plot([int(r["step"]) for r in steps], [float(r["loss"]) for r in steps], lw=0.7, alpha=0.6, label="steps")
        ends = [int(r["step"]) for r in epochs]
        axis.plot(ends, [float(r["training_loss"]) for r in epochs], "o-", ms=4, label="epochs, training")
        if epochs and "validation_loss" in epochs[0]:
            axis.plot(ends, [float(r["validation_loss"]) for r in epochs], "s-", ms=4, label="epochs, validation")
        axis.set(xlabel="step", ylabel="loss")
        if all(float(r["loss"]) > 0 for r in steps):
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.legend()
        figure.tight_layout()
        figure.savefig(place, dpi=110, format="png")
        plt.close(figure)

    def close(self):
        """Writes what TensorBoard has not yet."""
        if self._board is not None:
            self._board.close()


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('losses are drawn by matplotlib: pip install "fastrcn[train]"') from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _text(value):
    return repr(float(value)) if isinstance(value, float) else str(value)


def _keep(path, column, last):
    """The rows up to a step or epoch; the file is left with these alone, whatever a killed run had begun to write."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        rows = [row for row in table if None not in row.values() and None not in row]
    rows = [row for row in rows if (row.get(column) or "").isdecimal() and int(row[column]) <= last]
    if [int(row[column]) for row in rows] != list(range(1, last + 1)):
        raise ValueError(f"{path}: expected every {column} from 1 to {last}, got {len(rows)} rows")
    if not rows:
        path.unlink()
        return []
    write_text_at_once(path, csv_text([columns, *(row.values() for row in rows)]))
    return rows
