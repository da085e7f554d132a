"""What a cell's equations become: short elementwise programs, which the kernels run on the sums of a few rows.

A program has no matrix products; those are the layer's, the same for every cell. They leave S sums of each unit in
"slots": first the sums that x alone feeds, then those that x and h feed, then those that h alone feeds. The forward
program turns them into the new states, and leaves in the slots what the backward program needs (the tape). That one
turns the tape into the gradients of the sums, in their slots, those of the cell's own parameters, in the slots after
them, and that part of the previous states' gradients which does not go through the products. The inside program turns
the tape into what `trace` shows of each gate.

A mean over the units of a row cuts a program into phases. A phase runs a program on the units, all of a row, which
adds to the row's sums; these over H are values of the row, which every unit sees. The next phase first runs a program
on such values alone, once for a row, and then one on the units again. What units need of an earlier phase is in slots
or states. Values of a row are kept with the tape. The gradients of parameters are not left in slots then, but added
up, as they are without a recurrent product.

Slots come in blocks of four. The values of a unit that all programs see are

    SLOT j      forward: the sum, until it is overwritten; backward: what forward has left there
    BEFORE k    state k before the step: 0 is h, the recurrent output
    AFTER k     the new state k; backward and inside read it, in phases from 1 on, forward what it has written there
    GRADIENT k  backward: of the new state k on entry; to be overwritten with that of the one before, without what goes
                through the products
    UNIT m      the cell's own parameter m of the unit, or what is made of them once a call (`fastrnn.cells.prepared`)
    CONSTANT i  a number
    REGISTER r  scratch
    SHOWN g     inside: what is to be shown of gate g
    MIDDLE 0    see below
    TAKEN 0       see below
    EXTRA e     what the row is given beside x: read-only
    INTO_EXTRA e  backward, of a cell that has it: its gradient in the unit, to be written
    ROW i       in phases: a value of the row, the same for all units
    SUM j       in phases: sum j of its row, to which the unit adds: SUM j := SUM j + a, or + a + b
    OWN m       in phases and without a recurrent product, backward: likewise the gradient of UNIT m

A cell may have a second recurrent product, of a middle value m (N, H) that is made of sums and states, in place of h:
GRU's r * h as in the paper. The sums it feeds are x's too, and have the first slots, or m's alone, and have the last.
Then a step runs the middle program, which writes MIDDLE 0 and may overwrite the slots of other sums; the second product
adds to its slots; and the forward program goes on. Back it goes in the same two: first the middle_back program, which
writes the gradients of the sums that m feeds into their slots, and nothing else that the other reads; then the second
product gives the gradient of m; then the backward program, which has it in MIDDLE 0, writes all that is left. What the
tape holds in the slots of m is lost to that one. Where there are means, too, each of the two is in phases of its own:
no sum of a row crosses the product, but values of rows are seen after it, and so is, on the way back, what is in the
slots of m.

The recurrent product may take in place of h a value that is made of h, extras and parameters alone, dropout of h or its
decay. Then a step begins with the take program, which writes TAKEN 0, what the product takes. Its gradient is there as
the take_back program begins, which replaces it with what goes on to h, and adds to the slots of parameters' gradients,
and to INTO_EXTRA, what it has for them. That one sees the slots as backward has left them.

An instruction reads its operands before it writes, for all rows at once. A kernel may hold BEFORE k and AFTER k, from
k = 1 on, in the same memory: forward must not read BEFORE k once it has written AFTER k.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

__all__ = ["ArrayProgram", "Instruction", "Kind", "Op", "Operand", "Phase", "Program"]


class Kind(IntEnum):
    """Where an operand is."""

    REGISTER = 0
    SLOT = 1
    BEFORE = 2
    AFTER = 3
    GRADIENT = 4
    UNIT = 5
    CONSTANT = 6
    SHOWN = 7
    MIDDLE = 8
    EXTRA = 9
    TAKEN = 10
    ROW = 11
    SUM = 12
    OWN = 13
    INTO_EXTRA = 14


class Operand(NamedTuple):
    """A value of every unit and row."""

    kind: Kind
    index: int  # type: ignore[assignment]  # and not tuple's method


class Op(IntEnum):
    """What an instruction does with a, b and c. A mask has all bits of an element set, or none."""

    COPY = 0  # a
    ADD = 1  # a + b
    SUB = 2  # a - b
    MUL = 3  # a * b
    DIV = 4  # a / b
    FMA = 5  # a * b + c, rounded once where the machine can
    FNMA = 6  # c - a * b
    NEG = 7  # -a
    ABS = 8  # |a|
    MIN = 9  # the lesser of a and b; NaN if either is
    MAX = 10  # the greater
    SQRT = 11
    EXP = 12
    EXPM1 = 13  # exp(a) - 1
    LOG = 14
    LOG1P = 15  # log(1 + a)
    SIN = 16
    COS = 17
    ERF = 18
    SIGMOID = 19  # 1 / (1 + exp(-a))
    TANH = 20
    RELU = 21  # max(a, 0); NaN of NaN
    LESS = 22  # the mask a < b
    LESS_EQUAL = 23  # the mask a <= b
    EQUAL = 24  # the mask a == b
    SELECT = 25  # b where the mask a is set, else c
    LERP = 26  # c + a * (b - c)
    SIGMOID_BACK = 27  # a * (b * (1 - b)): the gradient a through b = sigmoid
    TANH_BACK = 28  # a * (1 - b * b): the gradient a through b = tanh


class Instruction(NamedTuple):
    """out := op(a, b, c); operands that an op does not have repeat a."""

    op: Op
    out: Operand
    a: Operand
    b: Operand
    c: Operand


class Phase(NamedTuple):
    """A part of a program whose cell has means over the units of a row."""

    means: tuple[int, ...]  # the sums of the phase before, over H, become ROW i of these
    of_row: tuple[Instruction, ...]  # on ROW alone
    of_units: tuple[Instruction, ...]


class Program(NamedTuple):
    """All that a kernel needs to know of a cell."""

    x_gates: tuple[int, ...]  # (X,) the gate of each slot from 0 on that x feeds, in the order of weight_ih's blocks
    h_gates: tuple[int, ...]  # (Y,) likewise of each slot from h_first on that h feeds, of weight_hh's
    slots: int  # S
    states: int  # K
    units: int  # the cell's own parameters
    reads_h: bool  # whether a program reads BEFORE 0, or backward writes GRADIENT 0
    constants: tuple[float, ...]
    registers: int  # the most that one of the programs uses
    forward: tuple[Instruction, ...]
    backward: tuple[Instruction, ...]
    inside: tuple[Instruction, ...]
    m_gates: tuple[int, ...] = ()  # (Q,) of each slot from m_first on that m feeds, of weight_hh's blocks
    m_first: int = 0  # or S - Q, where m alone feeds its slots
    middle: tuple[Instruction, ...] = ()
    middle_back: tuple[Instruction, ...] = ()
    extras: tuple[bool, ...] = ()  # (E,) whether each is the same at all steps of a sequence
    take: tuple[Instruction, ...] = ()
    take_back: tuple[Instruction, ...] = ()
    room: int = 0  # how many slots there are at the least, S and those of parameters' gradients among them
    phases: tuple[Phase, ...] = ()  # in place of forward, if there are means
    phases_back: tuple[Phase, ...] = ()  # in place of backward
    phases_middle: tuple[Phase, ...] = ()  # in place of middle
    phases_middle_back: tuple[Phase, ...] = ()  # in place of middle_back
    row_values: int = 0  # ROW i of forward, which backward and inside see as well, and those of the way back to m
    seen_units: int = 0  # M, how many values there are as UNIT
    into_extras: int = 0  # INTO_EXTRA e of backward: those of the first extras, or none

    @property
    def h_first(self) -> int:
        """The first slot that h feeds."""
        return self.slots - len(self.h_gates) - (len(self.m_gates) if self.m_first else 0)

    @property
    def adds_up(self) -> bool:
        """Whether backward adds up the gradients of units in OWN, as in phases and without a recurrent product."""
        return bool(self.phases) or not (self.h_gates or self.m_gates)

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """Those of a step, and then those of the way back, each in their order."""
        return self.phases_middle + self.phases + self.phases_middle_back + self.phases_back


@dataclass(frozen=True, eq=False)
class ArrayProgram:
    """A program on rows of arrays, once a call and not for each row of x: UNIT i is input i, AFTER j what comes out."""

    inputs: int
    outputs: int
    constants: tuple[float, ...]
    registers: int
    instructions: tuple[Instruction, ...]
