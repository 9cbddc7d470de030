"""What cells that change another cell share."""

from fastrcn.cells.cell import Cell


class Around(Cell):
    """A cell with the inputs and states of the one that it changes."""

    cell: Cell

    @property
    def inputs(self):
        return self.cell.inputs

    @property
    def states(self):
        return self.cell.states
