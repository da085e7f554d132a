"""`fastrnn bench`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastrnn.cli.options import SECONDS, PlainConsole
from fastrnn.threads import available_cpus

if TYPE_CHECKING:
    from fastrnn.bench.cases import Kind
    from fastrnn.bench.results import Results
    from fastrnn.bench.run import Plan

__all__ = ["bench"]

NEEDS = ("jinja2", "msgspec", "packaging", "psutil", "threadpoolctl")


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """The integers of a list such as 1,2 in rising order, each once; none without a list."""
    parts = value.split(",") if value is not None else []
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of numbers of at least 1, such as 1,2.")
    return tuple(sorted({int(part) for part in parts}))


@click.command()
@click.argument("cases", nargs=-1, metavar="[CASE ...]")
@click.option("--list", "list_", is_flag=True, help="List the cases and peers there are, and stop.")
@click.option("--kind", "kinds", type=click.Choice(["inference", "training"]), multiple=True, show_default="both")
@click.option(
    "--threads", callback=_numbers, metavar="N,...", show_default="1,2", help="Numbers of threads, such as 1,4."
)
@click.option("--peers", metavar="NAME,...", show_default="all that are installed", help="Whom to measure.")
@click.option("--seconds", type=SECONDS, default=1.0, help="Per row, about; large cases take their least rounds.")
@click.option("--footprint/--no-footprint", default=True, help="Also import times, sizes on disk, and memory.")
@click.option("--save", metavar="FILE.json", type=click.Path(path_type=Path), help="Keep every sample.")
@click.option("--read", metavar="FILE.json", type=click.Path(path_type=Path), help="Show that; measure nothing.")
@click.option(
    "--compare",
    "compare_with",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Tell what is slower than there.",
)
@click.option("--html", metavar="FILE.html", type=click.Path(path_type=Path), help="Write a page with plots.")
@click.option("--png", metavar="FOLDER", type=click.Path(path_type=Path), help="Write the plots as pictures.")
@click.pass_context
def bench(
    context: click.Context,
    cases: tuple[str, ...],
    list_: bool,
    kinds: tuple[Kind, ...],
    threads: tuple[int, ...],
    peers: str | None,
    seconds: float,
    footprint: bool,
    save: Path | None,
    read: Path | None,
    compare_with: Path | None,
    html: Path | None,
    png: Path | None,
) -> None:
    """Measure fastrnn against PyTorch, ONNX Runtime, JAX, NumPy, and the machine's limits.

    A CASE is a set (quick, the default; grid, float64, layers, bidirectional, ragged, projection, step, long; int8 and
    bfloat16, which are precisions, the former of inference; cells and
    yardsticks are of written cells), a case's name, or a pattern such as 'gru-*-64'. Every peer's numbers are compared
    with the reference before it is timed. With --compare, the status is 1 if a row has become slower.
    """
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise click.ClickException(f"the benchmarks need {', '.join(missing)}: pip install {' '.join(missing)}")
    if (html or png) and find_spec("matplotlib") is None:
        raise click.ClickException("--html and --png need matplotlib: pip install matplotlib")
    from fastrnn.bench.compare import compare, print_comparison
    from fastrnn.bench.machine import describe, versions
    from fastrnn.bench.results import Results, load
    from fastrnn.bench.tables import print_results

    width = None if sys.stdout.isatty() else 160  # a file has room for the tables
    console = PlainConsole(width=width)
    if list_:
        _print_lists(console)
        return
    if read and (cases or save):
        raise click.UsageError(f"--read measures nothing: leave {'CASE' if cases else '--save'} out.")
    try:
        kept = load(read) if read else None
        old = load(compare_with) if compare_with else None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    plan = _plan(cases or ("quick",), kinds, threads, peers, seconds)
    for path in (save, html, png):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)  # fails now, not after the run
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results = kept or Results(started, describe(), versions(), asdict(plan.settings))
    interrupted = False
    try:
        if kept is None:
            _follow(plan, results, footprint, console)
    except KeyboardInterrupt:
        interrupted = True
        console.print("stopped; what was measured until then:")
    finally:
        written = _write(results, save, html, png)  # first, for printing fails where the reader has gone
        print_results(console, results)
        for line in written:
            console.print(line)
    slower = 0
    if old:
        comparison = compare(old, results)
        print_comparison(console, comparison)
        slower = len(comparison.of("slower"))
    if wrong := [f"{row.name}: {row.wrong}" for row in results.rows if row.wrong]:
        raise click.ClickException("; ".join(wrong))
    context.exit(130 if interrupted else int(slower > 0))


def _plan(
    patterns: tuple[str, ...],
    kinds: tuple[Kind, ...],
    threads: tuple[int, ...],
    peers: str | None,
    seconds: float,
) -> Plan:
    """What the options ask for, or an error of the user's."""
    from fastrnn.bench.cases import KINDS, select
    from fastrnn.bench.measure import Settings
    from fastrnn.bench.peers import PEERS
    from fastrnn.bench.run import Plan

    try:
        cases = select(patterns)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    cpus = available_cpus()
    threads = threads or tuple(range(1, min(2, cpus) + 1))
    if max(threads) > cpus:
        raise click.ClickException(f"--threads is {max(threads)}; expected at most {cpus}, the CPUs that may be used")
    names = [name.strip() for name in peers.split(",")] if peers else list(PEERS)
    for name in names:
        if name not in PEERS:
            raise click.ClickException(f"no peer is called {name!r}; expected some of {', '.join(PEERS)}")
        if peers and (why := PEERS[name].why_absent()):
            raise click.ClickException(f"the peer {name} cannot run here: {why}")
    return Plan(tuple(cases), kinds or KINDS, threads, tuple(dict.fromkeys(names)), Settings(seconds))


def _follow(plan: Plan, results: Results, footprint: bool, console: Console) -> None:
    """Run the plan, adding to the results row by row; the bar is for terminals only."""
    from fastrnn.bench.footprint import measure_footprints
    from fastrnn.bench.results import Row, threads_text
    from fastrnn.bench.run import run

    bar = Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        rows = plan.rows()
        task = bar.add_task("", total=len(rows), now="the machine's limits")
        for record in run(plan):
            if not isinstance(record, Row):
                results.limits[record.threads] = record
            else:
                results.rows.append(record)
            done = len(results.rows)
            case, kind, threads = rows[min(done, len(rows) - 1)]
            bar.update(task, completed=done, now=f"{case.name} {kind}, {threads_text(threads)}")
        if footprint:
            bar.update(task, now="import times, sizes, memory")
            results.footprints.extend(measure_footprints())


def _write(results: Results, save: Path | None, html: Path | None, png: Path | None) -> list[str]:
    """Write the files that were asked for, and say which."""
    from fastrnn.bench.results import save as save_results
    from fastrnn.training.files import write_atomically

    written = []
    if save:
        save_results(save, results)
        written.append(f"results  {save}")
    if html:
        from fastrnn.bench.html import render_html

        write_atomically(html, render_html(results).encode())
        written.append(f"page     {html}")
    if png:
        from fastrnn.bench.plots import save_pngs

        written += [f"picture  {picture}" for picture in save_pngs(png, results)]
    return written


def _print_lists(console: PlainConsole) -> None:
    """Print the sets of cases and the peers."""
    from fastrnn.bench.cases import SETS
    from fastrnn.bench.peers import PEERS

    console.print("cases: cell-T-N-I-H and what is special about them", style="bold")
    for name, its in SETS.items():
        console.tell(f"  {name}: {' '.join(case.name for case in its)}", 4)
    console.print("peers", style="bold")
    for name, peer in PEERS.items():
        console.tell(f"  {name}: {peer.why_absent() or 'runs here'}", 4)
