"""The time loop with Triton kernels: one launch for each phase of each step, or one for many steps (see
``triton_time_loop``).

A phase is a run of fills and convolutions with the stage that follows them; its kernel is emitted from the
equations (see ``fastrcn.compiler.emit_triton``). Backward lists start with a stage and end with the convolutions whose
result the *next* time step's first stage reads; those two are one phase as well, across the end of the list. A
normalisation stands between the convolutions' phase and the stage's, with kernels of its own (see
``triton_normalize``).
"""

from dataclasses import replace
from math import prod

import torch

from fastrcn.compiler.schedule import schedule_of
from fastrcn.ops.conv_recurrent import triton_time_loop
from fastrcn.ops.conv_recurrent.geometry import Geometry
from fastrcn.ops.conv_recurrent.program import Buffer, buffers_of
from fastrcn.ops.conv_recurrent.subject import Subject
from fastrcn.ops.conv_recurrent.triton_config import MOST_SLOTS, Config, inputs_in_loop, joins_directions
from fastrcn.ops.conv_recurrent.triton_launch import PhaseLaunch
from fastrcn.ops.conv_recurrent.triton_normalize import NormLaunch
from fastrcn.ops.conv_recurrent.triton_plan import Structure, structure_of
from fastrcn.ops.conv_recurrent.triton_sums import most_sums
from fastrcn.ops.conv_recurrent.triton_time_loop import Loop
from fastrcn.ops.conv_recurrent.triton_together import run_both
from fastrcn.ops.conv_recurrent.triton_work import Norm, Work, is_slot
from fastrcn.ops.tf32 import allows_tf32
from fastrcn.ops.triton_support import check_pixels, manner, problem_of, problem_of_products


def can_run(subject: Subject, dtype, device):
    """(whether this backend runs the subject, why not or how)."""
    problem = problem_of(dtype, device) or problem_of_products(device)
    if problem:
        return False, problem
    sums = most_sums(subject[0])
    if sums > MOST_SLOTS:
        return False, f"its kernels have room for {MOST_SLOTS} sums of convolutions, a phase of this cell has {sums}"
    norms = ", one or two per normalisation" if schedule_of(subject[0]).normalizes else ""
    return True, manner("one kernel launch per phase and step, or one for many steps" + norms)


def compute_type(dtype, channels):
    """Type in which a call of ``dtype`` is computed: its own; sums are float32 in the kernels."""
    return dtype


class TritonProgram:
    """Takes the place of ``program.Program``: runs a list of steps over time, here with one kernel per phase.

    ``keep``: whether completed pre-activations are needed after the program; else those that only the stage of their
    own phase reads are never written. ``config`` overrides the choice of block sizes.
    """

    # Each chunk costs the host a fraction of a millisecond, in which a GPU convolves about so many pixels; and few of
    # them make a slow product of a weight's gradient.
    chunk_pixels, fewest_chunks, runs_whole = (1 << 17, 1 << 62), (4, 8), True

    @staticmethod
    def convolves(dtype) -> bool:
        """Large convolutions of many steps at once are the library's."""
        return False

    @staticmethod
    def convolves_inputs(geometry: Geometry, dtype, device) -> bool:
        """Whether the step's kernel convolves the inputs too: where its own tiles fill the processors twice. Else one
        large convolution before the loop fills them better."""
        return inputs_in_loop(geometry.pixels, geometry.channels, device)

    @staticmethod
    def joins_directions(geometry: Geometry, device) -> bool:
        """Whether the two directions of a layer share their launches."""
        return joins_directions(geometry.pixels, geometry.channels, device)

    @staticmethod
    def run_both(requests):
        """Run what two directions ask for (see ``fused.Request``) with one launch for both."""
        (one, other) = requests
        if one.program.works and one.count:
            run_both(*(r.program.loop_of(r) for r in (one, other)))

    def loop_of(self, request):
        """What a request launches."""
        loop = self.loop_backward if request.backward else self.loop
        return loop(request.start, request.count, request.has_first)

    def __init__(self, geometry: Geometry, steps, dtype, images, lengths, packed, keep=True, config=None):
        self.geometry, self.dtype, self.images, self.lengths, self.packed = geometry, dtype, images, lengths, packed
        self.keep, self.config = keep, config
        self.tf32 = dtype == torch.float32 and allows_tf32()
        self.pixels = images * geometry.map_pixels
        check_pixels(self.pixels, "input at one step")
        self.structure: Structure = structure_of(self, steps) if images and steps else Structure([])
        self.works = self.structure.works_of(steps)
        self.launches: list[PhaseLaunch | NormLaunch] | None = None
        self.rotated: tuple[list[PhaseLaunch | NormLaunch], PhaseLaunch] | None = None

    def run(self, start, count, at_start):
        """Run the steps at ``count`` times from ``start`` on, in the recurrence's direction."""
        if self.works and count:
            triton_time_loop.run(self.loop(start, count, at_start))

    def launch(self, work: Work | Norm):
        """One phase or normalisation with its buffers."""
        return PhaseLaunch(self, work) if isinstance(work, Work) else NormLaunch(self.images, work)

    def loop(self, start, count, at_start):
        """What ``run`` launches, in order."""
        if self.launches is None:
            self.launches = [self.launch(work) for work in self.works]
        direction, launches = self.geometry.direction, self.launches

        def step(n):
            time, first = start + n * direction, at_start and n == 0
            return [(launch, (time, time, first, first)) for launch in launches]

        return Loop(launches, count, step, ("forward", start, direction, at_start))

    def joined(self):
        """The launches of a backward step whose first phase begins with the convolutions that end the list, as (the
        launches, the one for these convolutions alone); None where the list cannot be turned so."""
        if self.rotated is None:
            (head, *middle), tail = self.works, self.works[-1]
            if not isinstance(head, Work) or not isinstance(tail, Work):
                return None
            if self.structure.joins is None:
                self.structure.joins = self._joins(head, tail)
            if not self.structure.joins:
                return None
            across = PhaseLaunch(self, replace(tail, stage=head.stage), across=True)
            self.rotated = [across, *(self.launch(work) for work in middle[:-1])], PhaseLaunch(self, tail)
        return self.rotated

    def _joins(self, head: Work, tail: Work):
        """Whether the first phase's stage may be the epilogue of the last one's convolutions."""
        stage = head.stage
        if stage is None or head.convolutions or head.fills or tail.stage:
            return False
        return tail.takes_stage(stage, self.geometry.direction)

    def run_backward(self, start, count, last_is_first):
        """Run against the recurrence's direction; ``last_is_first``: the last of these is the sequence's first step."""
        if self.works and count:
            triton_time_loop.run(self.loop_backward(start, count, last_is_first))

    def loop_backward(self, start, count, last_is_first):
        """What ``run_backward`` launches, in order."""
        direction = -self.geometry.direction
        joined = self.joined()

        def step(n):
            time, first = start + n * direction, last_is_first and n == count - 1
            calls = [(launch, (time, time, first, first)) for launch in launches]
            if joined:
                # At the first of these times nothing waits to be convolved.
                calls[0] = launches[0], (time - direction if n else None, time, False, first)
                if n == count - 1:
                    calls.append((joined[1], (time, time, first, first)))
            return calls

        launches = joined[0] if joined else [self.launch(work) for work in self.works]
        called = [*launches, joined[1]] if joined else launches
        return Loop(called, count, step, ("backward", start, direction, last_is_first))

    def written_back(self, work: Work, target: Buffer, slot, arg):
        """Whether memory needs a slot that ``work`` completes; ``arg``: the stage's argument that loads it, or None."""
        stage = work.stage
        if stage:
            for a, b in zip(stage.signature.args, stage.buffers, strict=True):
                if a.mode != "load" and a.role != "d_param" and is_slot(target, slot, b, self.geometry.channels):
                    return False
        if arg is None or (arg.role == "slot" and self.keep):
            return True
        for other in self.works:
            if not isinstance(other, Work):
                readers = buffers_of(other)
            elif other.convolutions is work.convolutions:
                continue
            else:
                readers = [*other.targets(), *(c.source for c in other.convolutions)]
                if other.stage and other.stage is not work.stage:
                    readers += [b for b in other.stage.buffers if is_slot(target, slot, b, self.geometry.channels)]
            if any(b.data.data_ptr() == target.data.data_ptr() for b in readers):
                return True
        return arg.role not in ("slot", "d_operand")

    def weight(self, weights, config: Config, block_k, joined):
        """Weights (Co,Ci,kernel ...) packed by block of channels, tap, block of input channels and slot, with zeros
        where a block is not full; ``joined``: slots side by side in one matrix. Made once per sequence."""
        c = self.geometry.channels
        key = ("triton", tuple(id(w) for w in weights), config.block_c, block_k, joined, self.tf32)
        if key not in self.packed:
            whole = torch.cat([w.dense() for w in weights]) if len(weights) > 1 else weights[0].dense()
            slots, ci, taps = whole.shape[0] // c, whole.shape[1], prod(whole.shape[2:])
            blocks, steps = -(-c // config.block_c), -(-ci // block_k)
            padded = dense = whole.reshape(slots, c, ci, taps)
            if (blocks * config.block_c, steps * block_k) != (c, ci):
                padded = whole.new_zeros(slots, blocks * config.block_c, steps * block_k, taps)
                padded[:, :c, :ci] = dense
            blocked = padded.view(slots, blocks, config.block_c, steps, block_k, taps)
            # tf32 products want the input channels of a weight side by side.
            order = (0, 2, 4) if self.tf32 else (4, 0, 2) if joined else (0, 4, 2)
            ready = blocked.permute(1, 5, 3, *order).contiguous()
            self.packed[key] = (ready, weights)  # the weights too: their ids must stay theirs
        return self.packed[key][0]


Program = TritonProgram
