"""What one Triton kernel of the time loop does: convolutions, and the stage that follows them (see ``emit_triton``), or
all of a step's for many times (see ``emit_triton_walk``)."""

from dataclasses import dataclass

from fastrcn.compiler.signature import Signature


@dataclass(frozen=True)
class Place:
    """Where maps lie: a pointer argument and which ``C`` channels of it; ``spread``: one row for all pixels.

    Of a parameter's gradient ``spread`` says that each program owns a row of sums, else each pixel has its own.
    """

    pointer: int
    slot: int = 0
    spread: bool = False


@dataclass(frozen=True)
class Accumulator:
    """One slot that the phase completes. ``start``: what the products are added to, None for zero; ``stored``:
    whether memory gets the sum as well."""

    place: Place
    start: Place | None
    stored: bool


@dataclass(frozen=True)
class Product:
    """A convolution of the maps at a pointer argument, whose output blocks go to ``accumulators``."""

    source: int
    accumulators: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    """What one kernel does. ``axes``: how many a map has, 2 (H,W) or 3 (D,H,W). ``timed``: for each pointer argument,
    whether it has maps for every time.

    ``places``: of the stage's arguments, in order; ``taken``: for each the accumulator that has its value, or None.
    ``parts``: after the products a tile's channels are taken in so many parts, a power of two, lest the stage's maps or
    the addresses of stores overflow the registers.
    ``both``: the grid has a second axis for the direction, and each direction its own maps, weights and times.
    """

    axes: int
    timed: tuple[bool, ...]
    accumulators: tuple[Accumulator, ...] = ()
    products: tuple[Product, ...] = ()
    signature: Signature | None = None
    places: tuple[Place, ...] = ()
    taken: tuple[int | None, ...] = ()
    lengths: bool = False
    parts: int = 1
    both: bool = False

    @property
    def joined(self):
        """Whether all accumulators are one matrix, side by side: the widest products that tensor cores can do.

        They come apart by halving, so their number must be a power of two, and every product must add to all of them,
        in their order.
        """
        n = len(self.accumulators)
        in_order = all(p.accumulators == tuple(range(n)) for p in self.products)
        return bool(self.products) and n & (n - 1) == 0 and in_order

    @property
    def freezes(self):
        """Whether the stage holds the states of sequences that have ended."""
        return self.lengths and self.signature is not None and bool(self.signature.carries)

    @property
    def size(self):
        """Names of the arguments that say how large a map of the state is."""
        return ("depth", "height", "width")[-self.axes :]

    @property
    def arguments(self):
        """Names of the kernel's run-time arguments, in order."""
        products = range(len(self.products))
        names = [f"p_{k}" for k in range(len(self.timed))]
        names += [f"p_weight_{j}" for j in products]
        names += ["p_lengths"] if self.freezes else []
        names += [f"i_t_{k}" for k, timed in enumerate(self.timed) if timed]
        extents = ("n_frames", "n_rows", "n_columns")[-self.axes :]
        names += [f"{name}_{j}" for j in products for name in ("n_steps", *extents)]
        names += ["i_time", "n_pixels", "n_images", *self.size]
        names += [f"{name}_other" for name in self.own] if self.both else []
        return names

    @property
    def own(self):
        """Names of the arguments that differ between the two directions."""
        names = [f"p_{k}" for k in range(len(self.timed))]
        names += [f"p_weight_{j}" for j in range(len(self.products))]
        return [*names, *self.times]

    @property
    def times(self):
        """Names of the arguments that change with the step."""
        return [*(f"i_t_{k}" for k, timed in enumerate(self.timed) if timed), "i_time"]

    @property
    def constants(self):
        """Names of the kernel's compile-time arguments, in order."""
        products = range(len(self.products))
        names = [f"PITCH_{k}" for k in range(len(self.timed))]
        names += [f"{name}_{j}" for j in products for name in ("CI", "BLOCK_K")]
        return ["C", *names, "BLOCK_M", "BLOCK_C", "PRECISION", "WEIGHT_BY_ROWS", "INTERPRET"]

    @property
    def name(self):
        """Name of the kernel's function."""
        backward = self.signature is not None and self.signature.backward
        return f"conv_recurrent_{'bwd' if backward else 'fwd'}_kernel"


def by_phase(values):
    """Values by name, one dictionary for each phase, as one: by the names that a walk's kernel has for them."""
    return {f"{name}_of_{k}": value for k, own in enumerate(values) for name, value in own.items()}


@dataclass(frozen=True)
class Walk:
    """The phases of a step in one kernel, which walks over many times itself. Its arguments are those of all phases,
    each name with the number of its phase. Either all phases are of both directions or none."""

    phases: tuple[Phase, ...]

    @property
    def arguments(self):
        """Names of the kernel's run-time arguments, in order."""
        names = []
        for k, phase in enumerate(self.phases):
            names += [f"{name}_of_{k}" for name in (*phase.arguments, "i_direction")]
        return [*names, "n_times", "p_counter"]

    @property
    def moves(self):
        """What changes from one step to the next, as (name of the argument, by what); a second direction goes the other
        way."""
        found = []
        for k, phase in enumerate(self.phases):
            found += [(f"{name}_of_{k}", f"i_direction_of_{k}") for name in phase.times]
            found += [(f"{name}_other_of_{k}", f"-i_direction_of_{k}") for name in phase.times if phase.both]
        return found

    @property
    def constants(self):
        """Names of the kernel's compile-time arguments, in order."""
        return [f"{name}_of_{k}" for k, phase in enumerate(self.phases) for name in phase.constants]

    @property
    def name(self):
        """Name of the kernel's function."""
        backward = any(phase.signature is not None and phase.signature.backward for phase in self.phases)
        return f"conv_recurrent_{'bwd' if backward else 'fwd'}_walk_kernel"
