"""Programs of cells that take means over the units of a row, cut into phases between which rows are summed up.

A mean waits for all units of its row. So what it is of is computed in one phase, and what is made of it in the next.
What a phase has computed of a unit is lost at its end, save what it leaves in slots and states; what is cheap to
compute again from these is computed again. What all units of a row share is computed once for the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from fastrnn.cells.graph import Across, Graph, Node, reachable
from fastrnn.cells.program import Instruction, Kind, Op, Operand, Phase
from fastrnn.cells.schedule import Constants, cost_of, place, schedule

__all__ = ["PhaseWriter", "keep"]

Target: TypeAlias = tuple[Operand, Node]

_WORTH_A_SLOT = 2.5  # operations that are not done again
_WORTH_KEEPING = 0.5  # in the place of another value, where it costs nothing
_MASKS = frozenset({Op.LESS, Op.LESS_EQUAL, Op.EQUAL})


class _Costs:
    """What it takes to compute nodes of one graph from others; sets of them are bits, in the order of the graph."""

    def __init__(self, graph: Graph, roots: Iterable[Node]) -> None:
        self.order = reachable(roots)
        self.bit = {n: 1 << k for k, n in enumerate(self.order)}
        at = {n: k for k, n in enumerate(self.order)}
        self.inputs = [[at[a] for a in dict.fromkeys(n.args)] for n in self.order]
        self.args = [sum([1 << k for k in its]) for its in self.inputs]
        self.cost = [0.0 if n.op is None or graph.is_of_a_row(n) else cost_of(n.op) for n in self.order]
        self.leaves = self.bits(n for n in self.order if n.leaf is not None)
        self.known: dict[tuple[int, int], tuple[float, int]] = {}

    def bits(self, nodes: Iterable[Node]) -> int:
        """A set of those of the nodes that count."""
        found = 0
        for node in nodes:
            found |= self.bit.get(node, 0)
        return found

    def of(self, roots: int, seen: int) -> tuple[float, int]:
        """The sum of the operations, infinite if that cannot be done; and all that is needed, seen or computed."""
        found = self.known.get((roots, seen))
        if found is None:
            found = self.known[roots, seen] = self._of(roots, seen)
        return found

    def _of(self, roots: int, seen: int) -> tuple[float, int]:
        left, needed, total = roots & ~seen, roots, 0.0
        if left & self.leaves:
            return float("inf"), needed
        while left:
            k = left.bit_length() - 1  # no other needs this one
            left ^= 1 << k
            total += self.cost[k]
            args = self.args[k]
            needed |= args
            args &= ~seen
            if args:
                if args & self.leaves:
                    return float("inf"), needed
                left |= args
        return total, needed

    def look(self, roots: int, seen: int) -> tuple[int, list[int]]:
        """All that is needed, and how often each node is an operand of what is computed, or a root."""
        uses = [0] * len(self.order)
        for k in _positions(roots):
            uses[k] = 1
        needed, left = roots, roots & ~seen
        while left:
            k = left.bit_length() - 1
            left ^= 1 << k
            needed |= self.args[k]
            left |= self.args[k] & ~seen
            for a in self.inputs[k]:
                uses[a] += 1
        return needed, uses

    def saved(self, node: Node, uses: list[int], seen: int) -> float:
        """What is not to be computed if a node is seen: its own operations, and those of what nobody else uses."""
        left, total = [self.bit[node].bit_length() - 1], 0.0
        dropped: dict[int, int] = {}
        while left:
            k = left.pop()
            total += self.cost[k]
            for a in self.inputs[k]:
                if not seen >> a & 1:
                    dropped[a] = dropped.get(a, 0) + 1
                    if dropped[a] == uses[a]:
                        left.append(a)
        return total

    def choose(self, roots: int, seen: Callable[[], int], candidates: Iterable[Node]) -> Iterator[tuple[Node, float]]:
        """Yield, best first, candidates and what they save, while the caller adds to what is seen."""
        before = seen()
        needed, uses = self.look(roots, before)
        useful = [n for n in candidates if self.bit[n] & needed & ~before]
        gains = {n: self.saved(n, uses, before) for n in useful}
        while gains:
            best = max(gains, key=lambda n: (gains[n], -n.index))
            if gains[best] < _WORTH_KEEPING:
                return
            # Gains shrink as others are taken: the best one is the best still if its own is no less than the next.
            now = seen()
            if now != before:
                before = now
                needed, uses = self.look(roots, before)
            gain = self.saved(best, uses, before) if self.bit[best] & needed & ~before else 0.0
            if gain < gains[best]:
                gains[best] = gain
                continue
            del gains[best]
            yield best, gain


def _positions(bits: int) -> Iterator[int]:
    while bits:
        k = bits.bit_length() - 1
        bits ^= 1 << k
        yield k


def keep(
    graph: Graph,
    forward: Sequence[Node],
    backward: Sequence[Node],
    after: Iterable[Node],
    slots: int,
    lost: Sequence[Operand],
) -> dict[Node, Operand] | None:
    """The values that forward leaves in the slots for backward, and where; None if the slots are too few.

    Parameters
    ----------
    forward
        The new states, and the middle value.
    backward
        What is to be computed of these values.
    after
        What backward sees in any case.
    slots
        How many there are.
    lost
        Those of them that backward does not see.
    """
    most = slots - len(lost)
    made = reachable(forward)
    sums = [n for n in made if n.leaf is not None and n.leaf.kind is Kind.SLOT]
    costs = _Costs(graph, [*forward, *backward])
    roots = costs.bits(backward)
    always = costs.bits([*after, *[n for n in costs.order if n.leaf is not None and n.leaf.kind is not Kind.SLOT]])

    def without_spare(kept: list[Node]) -> list[Node]:
        _, needed = costs.of(roots, always | costs.bits(kept))
        return [n for n in kept if costs.bit[n] & needed]

    def seen() -> int:
        return always | costs.bits(kept)

    kept = without_spare(sums)
    candidates = [n for n in made if n.op is not None and n.op not in _MASKS and not graph.is_of_a_row(n)]
    for best, saved in costs.choose(roots, seen, candidates):
        more = without_spare([*kept, best])
        if len(more) <= (most if saved > _WORTH_A_SLOT else len(kept)):
            kept = more
    return place(kept, sums, slots, lost) if len(kept) <= most else None


class PhaseWriter:
    """Writes programs in phases, which share the numbering of ROW values."""

    def __init__(self, graph: Graph, constants: Constants, slots: int) -> None:
        self.graph, self.constants, self.slots = graph, constants, slots
        self.rows: dict[Node, Operand] = {}  # the values of a row that have a place
        self.registers = 0

    def _row(self, node: Node) -> Operand:
        return self.rows.setdefault(node, Operand(Kind.ROW, len(self.rows)))

    def write(
        self, targets: Sequence[Target], seen: Mapping[Node, Operand], *, forward: bool = False
    ) -> tuple[Phase, ...]:
        """The phases that write each node to its target, from the values that are seen and where these are."""
        place_of = {**seen, **self.rows}
        left = [(at, node) for at, node in targets if place_of.get(node) != at]
        order = reachable([node for _, node in left], place_of.__contains__)
        costs = _Costs(self.graph, [node for _, node in left])
        phase_of: dict[Node, int] = {}
        for node in order:
            found = 0 if node in place_of else max((phase_of[a] for a in node.args), default=0)
            phase_of[node] = found + (node.op is Across.MEAN and node not in place_of)
        final = {at for at, _ in targets}
        of_rows = {n for n in order if self.graph.is_of_a_row(n)}
        phases = []
        end = max(phase_of.values(), default=0)
        for phase in range(end + 1):
            means, of_row = self._values_of_rows(phase, order, of_rows, phase_of, place_of)
            later_means = [n for n in order if n.op is Across.MEAN and phase_of[n] > phase + 1]
            sums = [n.args[0] for n in order if n.op is Across.MEAN and phase_of[n] == phase + 1 and n not in place_of]
            written, after = list(left), place_of
            if phase < end:
                coming = [n for n in order if n.op is Across.MEAN and phase_of[n] == phase + 1]
                ready = [n for n in order if phase_of[n] <= phase]
                written, after = self._before(
                    [n.args[0] for n in later_means], left, final, place_of, costs, coming, ready, forward
                )
            left = [target for target in left if target not in written]
            sum_leaves = [self.graph.leaf(Operand(Kind.SUM, j)) for j in range(len(sums))]
            uses = self._uses([*[node for _, node in written], *sums], place_of)
            written = [(at, self._regrouped(node, uses)) for at, node in written]
            added = [(sum_.value, self._added(sum_, node, uses)) for sum_, node in zip(sum_leaves, sums, strict=True)]
            code = schedule(
                [*written, *added],
                {**place_of, **{n: n.value for n in sum_leaves}},
                self.constants,
                forward=forward,
            )
            self.registers = max(self.registers, code.registers)
            phases.append(Phase(means, of_row, code.instructions))
            place_of = after
        return tuple(phases)

    @staticmethod
    def _uses(roots: Sequence[Node], seen: Mapping[Node, Operand]) -> dict[Node, int]:
        """How often each node that is to be computed is an operand, or a root."""
        order = [n for n in reachable(roots, seen.__contains__) if n not in seen and n.op is not None]
        uses = dict.fromkeys(order, 0)
        for node in [*[a for n in order for a in n.args], *roots]:
            if node in uses:
                uses[node] += 1
        return uses

    def _added(self, total: Node, node: Node, uses: Mapping[Node, int]) -> Node:
        """A total and a sum, whose terms are added one after the other: products then are multiply-adds."""
        if node.op is Op.ADD and uses.get(node) == 1:
            first, second = node.args
            return self._added(self._added(total, first, uses), second, uses)
        return self.graph.make(Op.ADD, total, node)

    def _regrouped(self, node: Node, uses: Mapping[Node, int]) -> Node:
        """u - v + r of two products and what is of a row as u + (r - v), which are two multiply-adds."""
        for difference, r in (node.args, node.args[::-1]) if node.op is Op.ADD else ():
            if difference.op is Op.SUB and uses.get(difference) == 1 and self.graph.is_of_a_row(r):
                u, v = difference.args
                if all(product.op is Op.MUL and uses.get(product) == 1 for product in (u, v)):
                    return self.graph.make(Op.ADD, u, self.graph.make(Op.SUB, r, v))
        return node

    def _values_of_rows(
        self,
        phase: int,
        order: Sequence[Node],
        of_rows: set[Node],
        phase_of: Mapping[Node, int],
        place_of: dict[Node, Operand],
    ) -> tuple[tuple[int, ...], tuple[Instruction, ...]]:
        """The means that a phase begins with, and what it makes of them; both are in `place_of` then."""
        of_row = [n for n in order if n in of_rows and phase_of[n] == phase and n not in place_of]
        means = [n for n in of_row if n.op is Across.MEAN]
        readers = {a for n in order if n not in of_rows or phase_of[n] > phase for a in n.args}
        known = {n: at for n, at in place_of.items() if at.kind is Kind.ROW}
        known |= {n: self._row(n) for n in means}
        used = [(self._row(n), n) for n in of_row if n.op is not Across.MEAN and n in readers]
        found = schedule(used, known, self.constants)
        self.registers = max(self.registers, found.registers)
        place_of |= known | {n: at for at, n in used}
        return tuple([known[n].index for n in means]), found.instructions

    def _before(
        self,
        later: Sequence[Node],
        left: Sequence[Target],
        final: set[Operand],
        place_of: dict[Node, Operand],
        costs: _Costs,
        coming: Sequence[Node],
        ready: Sequence[Node],
        forward: bool,
    ) -> tuple[list[Target], dict[Node, Operand]]:
        """What a phase writes besides its sums, of what is `ready`, so that later ones do less; and what they see.

        `later` is what means are of that do not come with the next phase, as those that are `coming` do.
        """
        written: list[Target] = []

        at_hand = set(ready)
        of_later, of_coming = costs.bits(later), costs.bits(coming)
        roots, seen = of_later | costs.bits([node for _, node in left]), of_coming | costs.bits(place_of)

        def cost() -> float:
            return costs.of(roots, seen)[0]

        def take(target: Target, most: float) -> bool:
            """Write it now, if the rest then costs no more than that."""
            nonlocal left, place_of, roots, seen
            at, node = target
            if at in final.difference([other for other, _ in left]):
                return False  # it has its target's value
            before = left, place_of, roots, seen
            lost = [at, Operand(Kind.BEFORE, at.index)] if forward and at.kind is Kind.AFTER and at.index else [at]
            place_of = {n: its for n, its in place_of.items() if its not in lost}
            if at.kind is Kind.SLOT or (at.kind is Kind.AFTER and at.index):
                place_of[node] = at
            left = [other for other in left if other != target]
            roots, seen = of_later | costs.bits([node for _, node in left]), of_coming | costs.bits(place_of)
            if cost() > most:
                left, place_of, roots, seen = before
                return False
            written[:] = [other for other in written if other[0] != at] + [target]
            return True

        def take_targets(of_slots: bool) -> None:
            for at, node in list(left):
                if (at.kind is Kind.SLOT) == of_slots and (node in at_hand or node in place_of):
                    take((at, node), cost())

        take_targets(False)
        wanted = {node: at for at, node in left if at.kind is Kind.SLOT}
        candidates = [n for n in ready if n.op is not None and n.op not in _MASKS and not self.graph.is_of_a_row(n)]
        for best, saved in costs.choose(roots, lambda: seen, candidates):
            most, needed = costs.of(roots, seen | costs.bit[best])
            taken = {at for node, at in place_of.items() if costs.bit.get(node, 0) & needed}
            free = [Operand(Kind.SLOT, j) for j in range(self.slots) if Operand(Kind.SLOT, j) not in taken]
            for at in [wanted[best], *free] if best in wanted else free:
                if (saved > _WORTH_A_SLOT or at in place_of.values()) and take((at, best), most):
                    break
        take_targets(True)
        return written, place_of
