"""From expressions to programs: what the tape keeps, and in which order and where values are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from fastrnn.cells.graph import Node, reachable
from fastrnn.cells.program import Instruction, Kind, Op, Operand

__all__ = ["Constants", "Scheduled", "choose_tape", "cost_of", "place", "schedule"]

_CHEAP = 1.0
_COST = dict.fromkeys((Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.SIN, Op.COS, Op.ERF, Op.SIGMOID, Op.TANH), 12.0)
_COST |= {Op.DIV: 5.0, Op.SQRT: 5.0}
_FEW_REGISTERS = 6


# ---- the tape


def cost_of(op: Op) -> float:
    """What an operation takes, by that of an addition."""
    return _COST.get(op, _CHEAP)


class _Cost:
    """What it takes to compute roots from the values that are seen; infinite if sums are needed that are not.

    A set of nodes is an integer here, a bit for each: the search for a tape asks some hundred times.
    """

    def __init__(self, roots: Sequence[Node]) -> None:
        self.roots = _bits(roots)
        self.steps: list[tuple[int, float, int]] = []  # of each node, users first: its bit, its cost, its operands
        for node in reversed(reachable(roots)):
            if node.op is not None:
                self.steps.append((1 << node.index, _COST.get(node.op, _CHEAP), _bits(node.args)))
            elif node.leaf is not None and node.leaf.kind is Kind.SLOT:
                self.steps.append((1 << node.index, float("inf"), 0))

    def __call__(self, seen: int) -> float:
        needed, total = self.roots & ~seen, 0.0
        for bit, cost, args in self.steps:
            if needed & bit:
                total += cost
                needed |= args & ~seen
        return total


def _bits(nodes: Iterable[Node]) -> int:
    found = 0
    for node in nodes:
        found |= 1 << node.index
    return found


def choose_tape(
    forward: Sequence[Node],
    after: Mapping[Node, Operand],
    backward: Sequence[Node],
    inside: Sequence[Node],
    slots: int,
    lost: Sequence[Operand] = (),
) -> dict[Node, Operand] | None:
    """The values that forward leaves in the slots for backward and for inside, and where.

    Parameters
    ----------
    forward
        The new states.
    after
        Those that backward reads as states.
    backward, inside
        What the tape must lead to.
    slots
        How many there are.
    lost
        Those of them that backward does not see.

    Returns
    -------
    dict or None
        None if the slots are too few.
    """
    made = reachable(forward)
    sums = [n for n in made if n.leaf is not None and n.leaf.kind is Kind.SLOT]
    needed = {n for n in reachable([*backward, *inside]) if n in set(sums)}
    kept = dict.fromkeys(n for n in sums if n in needed and n.value not in lost)
    candidates = [n for n in made if n.op is not None and n not in after and n.op not in _MASKS]
    candidates += [n for n in sums if n not in kept]

    of_backward, of_inside, always = _Cost(backward), _Cost(inside), _bits(after)

    def cost(of: Iterable[Node], limit: float = float("inf")) -> float:
        """What backward and, with little weight, inside take; backward's part alone where it is beyond the limit."""
        seen = always | _bits(of)
        found = of_backward(seen)
        return found if found >= limit else found + 0.02 * of_inside(seen)

    def improved(kept: dict[Node, None]) -> tuple[float, dict[Node, None]]:
        best, better = cost(kept), True
        while better:
            better = False
            for candidate in candidates:
                if candidate in kept:
                    continue
                trials = [[n for n in kept if n is not other] for other in kept]
                if len(kept) < slots - len(lost):
                    trials.append(list(kept))
                for trial in trials:
                    found = cost([*trial, candidate], best)
                    # A value of a slot of its own is written besides: it must save something.
                    if found + (2.0 if len(trial) == len(kept) else 0.01) < best:
                        kept, best, better = dict.fromkeys([*trial, candidate]), found, True
                        break
        return best, kept

    best, kept = improved(kept)
    whole = dict.fromkeys(n for n in sums if n in needed)
    if best == float("inf") and len(whole) <= slots - len(lost):  # several lost sums: one value is not enough for them
        best, kept = improved(whole)
    return place(kept, sums, slots, lost) if best < float("inf") else None


_MASKS = frozenset({Op.LESS, Op.LESS_EQUAL, Op.EQUAL})


def place(kept: Iterable[Node], sums: Sequence[Node], slots: int, lost: Sequence[Operand]) -> dict[Node, Operand]:
    """A slot for each kept value: a sum's is its own, others take that of a sum they are made of, if it is free."""
    placed: dict[Node, Operand] = {n: n.value for n in kept if n.leaf is not None and n.value not in lost}
    free = [Operand(Kind.SLOT, j) for j in range(slots)]
    free = [operand for operand in free if operand not in set(placed.values()) and operand not in lost]
    of_sums = {n.value for n in sums}
    others = [n for n in kept if n not in placed]
    for node in sorted(others, key=lambda node: len(reachable([node]))):  # what is made of one sum chooses first
        mine = [n.value for n in reachable([node]) if n.value in free and n.value in of_sums]
        spare = [operand for operand in free if operand not in of_sums]
        placed[node] = (mine or spare or free)[0]
        free.remove(placed[node])
    return placed


# ---- instructions


class Constants:
    """The numbers of a cell's programs."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._known: dict[str, Operand] = {}  # by bits: 0.0 and -0.0 are two

    def place(self, value: float) -> Operand:
        """Where a number is."""
        found = self._known.get(value.hex())
        if found is None:
            found = self._known[value.hex()] = Operand(Kind.CONSTANT, len(self.values))
            self.values.append(value)
        return found


_Work: TypeAlias = "tuple[Op, tuple[Node, ...]]"


def _fused(roots: Iterable[Node], seen: Mapping[Node, Operand]) -> dict[Node, _Work]:
    """The operations that roots take, where products and sums are one operation if nobody else needs the product."""
    order = [n for n in reachable(roots, seen.__contains__) if n not in seen and n.op is not None]
    uses: dict[Node, int] = dict.fromkeys(order, 0)
    for node in [*[a for n in order for a in n.args], *roots]:
        if node in uses:
            uses[node] += 1
    work: dict[Node, _Work] = {n: (n.op, n.args) for n in order}

    def single(node: Node, op: Op) -> bool:
        return node in work and node.op is op and uses[node] == 1

    for node in reversed(order):
        if node not in work:
            continue
        if node.op is Op.ADD:
            for product, c in (node.args, node.args[::-1]):
                if single(product, Op.MUL):
                    work[node] = Op.FMA, (*product.args, c)
                    del work[product]
                    for factor, difference in (product.args, product.args[::-1]):
                        if single(difference, Op.SUB) and difference.args[1] is c:
                            work[node] = Op.LERP, (factor, *difference.args)
                            del work[difference]
                            break
                    break
        elif node.op is Op.SUB and single(node.args[1], Op.MUL):
            c, product = node.args
            work[node] = Op.FNMA, (*product.args, c)
            del work[product]
    return work


class Scheduled(NamedTuple):
    """A program, and how many registers it takes."""

    instructions: tuple[Instruction, ...]
    registers: int


def schedule(
    targets: Sequence[tuple[Operand, Node]],
    seen: Mapping[Node, Operand],
    constants: Constants,
    *,
    forward: bool = False,
) -> Scheduled:
    """Instructions that write each node to its target, from the values that are seen and where these are.

    A target may be a place whose value is needed before. If one order takes more copies than there must be, or many
    registers, another is tried; the shortest program wins.
    """
    targets = [(operand, node) for operand, node in targets if seen.get(node) != operand]
    scheduler = _Scheduler(targets, seen, constants, forward)
    least = len(scheduler.work) + len(scheduler.copies)
    found = scheduler.run()
    if len(found.instructions) == least and found.registers <= _FEW_REGISTERS:
        return found
    other = _Scheduler(targets[::-1], seen, constants, forward).run()
    return min(found, other, key=lambda one: (len(one.instructions), one.registers))


class _Scheduler:
    """One program in the making."""

    def __init__(
        self,
        targets: Sequence[tuple[Operand, Node]],
        seen: Mapping[Node, Operand],
        constants: Constants,
        forward: bool,
    ) -> None:
        self.constants = constants
        roots = [node for _, node in targets]
        self.work = _fused(roots, seen)
        self.place: dict[Node, Operand] = dict(seen)
        self.targets: dict[Node, Operand] = {}
        self.copies: list[tuple[Operand, Node]] = []  # besides
        for operand, node in targets:
            if node in self.work and node not in self.targets:
                self.targets[node] = operand
            else:
                self.copies.append((operand, node))
        self.reads = {node: tuple(dict.fromkeys(args)) for node, (_, args) in self.work.items()}  # each once, in order
        self.uses: dict[Node, int] = {}
        for node in [a for args in self.reads.values() for a in args] + [node for _, node in self.copies]:
            self.uses[node] = self.uses.get(node, 0) + 1
        # What must have been read before a place is written.
        self.content: dict[Operand, list[Node]] = {}
        for node in self.uses:
            at = seen.get(node)
            if at is not None:
                self.content.setdefault(at, []).append(node)
                if forward and at.kind is Kind.BEFORE and at.index:
                    self.content.setdefault(Operand(Kind.AFTER, at.index), []).append(node)
        self.free: list[int] = []
        self.registers = 0
        self.out: list[Instruction] = []
        self.order = self._depth_first(roots)

    def _depth_first(self, roots: Sequence[Node]) -> dict[Node, int]:
        """Where each operation comes if a result follows its operands, those with more behind them first."""
        behind: dict[Node, int] = {}
        for node in sorted(self.work, key=lambda node: node.index):
            behind[node] = 1 + sum(behind.get(a, 0) for a in self.reads[node])
        order: dict[Node, int] = {}
        left = [(root, False) for root in reversed(roots)]
        while left:
            node, done = left.pop()
            if node not in self.work or node in order:
                continue
            if done:
                order[node] = len(order)
                continue
            left.append((node, True))
            left += [(a, False) for a in sorted(self.reads[node], key=lambda a: behind.get(a, 0))]
        return order

    def _operand(self, node: Node) -> Operand:
        if node.number is not None:
            return self.constants.place(node.number)
        found: Operand = self.place.get(node, node.value)
        return found

    def _emit(self, op: Op, out: Operand, args: Sequence[Node]) -> None:
        a, b, c = (*map(self._operand, args), *[self._operand(args[0])] * (3 - len(args)))
        self.out.append(Instruction(op, out, a, b, c))

    def _used(self, args: Iterable[Node]) -> None:
        """Count down what is left to read."""
        for node in args:
            self.uses[node] -= 1
            at = self.place.get(node)
            if not self.uses[node] and at is not None and at.kind is Kind.REGISTER:
                self.free.append(at.index)
                self.free.sort(reverse=True)

    def _register(self) -> Operand:
        if self.free:
            return Operand(Kind.REGISTER, self.free.pop())
        self.registers += 1
        return Operand(Kind.REGISTER, self.registers - 1)

    def _blocked(self, target: Operand, args: Iterable[Node]) -> bool:
        """Whether somebody besides an operation on args still reads what is at its target."""
        content = self.content.get(target)
        return content is not None and any(self.uses[node] > (node in args) for node in content)

    def run(self) -> Scheduled:
        """The program."""
        waiting: dict[Node, int] = {}  # operands that are not computed yet
        for node, args in self.reads.items():
            waiting[node] = sum(a in self.work for a in args)
        readers: dict[Node, list[Node]] = {}
        for node, args in self.reads.items():
            for a in args:
                readers.setdefault(a, []).append(node)
        ready = [node for node, count in waiting.items() if not count]
        while ready:
            self._copy_what_can_be()
            node = min(ready, key=self._rank)
            ready.remove(node)
            op, args = self.work[node]
            target = self.targets.get(node)
            blocked = target is not None and self._blocked(target, args)
            operands = [self._operand(a) for a in args]
            self._used(self.reads[node])
            out = target if target is not None and not blocked else self._register()
            of_a, of_b, of_c = (*operands, *[operands[0]] * (3 - len(operands)))
            self.out.append(Instruction(op, out, of_a, of_b, of_c))
            self.place[node] = out
            if target is not None and blocked:
                self.copies.append((target, node))
                self.uses[node] = self.uses.get(node, 0) + 1
            for reader in readers.get(node, ()):
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.append(reader)
        while self.copies:
            if not self._copy_what_can_be():
                self._make_way()
        return Scheduled(tuple(self.out), self.registers)

    def _rank(self, node: Node) -> tuple[bool, int, int]:
        """What to compute next: what can be written where it belongs, then what leaves the fewest values waiting."""
        args = self.reads[node]
        target = self.targets.get(node)
        blocked = target is not None and self._blocked(target, args)
        ends = 0
        for a in args:
            if self.uses[a] == 1 and (at := self.place.get(a)) is not None and at.kind is Kind.REGISTER:
                ends += 1
        return blocked, (target is None or blocked) - ends, self.order[node]

    def _copy_what_can_be(self) -> bool:
        """Copy values to targets that nobody reads any more, if they are computed."""
        for copy in list(self.copies):
            target, node = copy
            if node in self.work and node not in self.place:
                continue
            if not self._blocked(target, (node,)):
                self._emit(Op.COPY, target, (node,))
                self._used((node,))
                self.copies.remove(copy)
                return True
        return False

    def _make_way(self) -> None:
        """Values wait for one another's places: take one of them aside."""
        target, _ = self.copies[0]
        (node, *_) = [n for n in self.content[target] if self.uses[n]]
        aside = self._register()
        self._emit(Op.COPY, aside, (node,))
        self.place[node] = aside
        for content in self.content.values():
            if node in content:
                content.remove(node)
