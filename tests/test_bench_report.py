"""What is told about a benchmark run: tables, comparison, page and pictures of results that are made up here."""

from __future__ import annotations

import base64
import io
import math
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from fastrnn.bench import plots, tables
from fastrnn.bench.cases import ALL, SETS
from fastrnn.bench.compare import compare, print_comparison
from fastrnn.bench.html import render_html
from fastrnn.bench.limits import Limits
from fastrnn.bench.results import Bound, Footprint, Memory, Results, Row, load, mean_ratio, save

FLOPS_BIND = Limits(1, {"float32": 1e10, "float64": 5e9}, ((1 << 14, 1e12), (1 << 28, 1e12)))
BYTES_BIND = Limits(1, {"float32": 1e12, "float64": 1e12}, ((1 << 14, 1e9), (1 << 28, 1e9)))
NASTY = '<script>alert("1 & 2")</script> [bold]rejects[/bold]'
ABSENT = {"cython": "not built", "numba": "ragged is not implemented yet"}

# Inference on 1 thread, in the order in which a table has to show it: milliseconds by peer, and the ratio.
ROWS = (
    ("rnn-50-1-64-64", {"numba": 4, "torch": 1}, 0.25),
    ("lstm-100-8-64-64", {"cython": 2, "numba": 3, "torch": 1, "jax": 5}, 0.5),
    ("lstm-50-1-64-64", {"cython": 1, "numba": 0.1, "torch": 2, "jax": 4, "numpy": 0.5}, 2),
    ("gru-50-64-512-512-float64", {"cython": 1, "numpy": 3}, 3),
    ("lstm-1000-8-64-64", {"cython": 2, "torch": 16, "numpy": 40}, 8),
    ("lstm-100-32-256-256-ragged", {"torch": 7, "numpy": 9}, math.nan),
)


def samples(milliseconds, spread=0.01):
    """Three samples with this median and this `Row.spread`."""
    return [milliseconds * 1e-3 * factor for factor in (1 + 2 * spread, 1 - 2 * spread, 1)]


def row(name, milliseconds, kind="inference", threads=1, **more):
    return Row(ALL[name], kind, threads, {peer: samples(ms) for peer, ms in milliseconds.items()}, **more)


@pytest.fixture(scope="module")
def results():
    """Two kinds of work on two numbers of threads; 2 threads are 1.6 times as fast, training takes 3 times as long."""
    rows = [
        row(
            name,
            {peer: ms * (3 if kind == "training" else 1) / (1.6 if threads == 2 else 1) for peer, ms in times.items()},
            kind,
            threads,
            absent={"onnxruntime": NASTY} | (ABSENT if "ragged" in name else {}),
            others=0.25 if (kind, threads, name) == ("training", 2, "lstm-100-32-256-256-ragged") else 0.1,
        )
        for kind in ("training", "inference")
        for threads in (2, 1)
        for name, times, _ in reversed(ROWS)
    ]
    memory = tuple(
        Memory(ALL[name], size) for name, size in (("lstm-50-1-64-64", 12_300_000), ("gru-50-1-64-64", 4_000))
    )
    return Results(
        "2026-01-02T03:04:05Z",
        {
            "cpu": "A CPU",
            "cpus": 2,
            "l1_bytes": 48 << 10,
            "l2_bytes": 2 << 20,
            "memory_bytes": 24 << 30,
            "python": "3.12",
        },
        {"fastrnn": "0.1.0", "torch": "2.13.0", "jax": "0.10", "jaxlib": "0.10", "numpy": "2.4"},
        {"rounds": 9, "cpus": "0,1"},
        {1: FLOPS_BIND, 2: BYTES_BIND},
        rows,
        [
            Footprint("fastrnn", 0.0901, 71_400_000, memory),
            Footprint("onnxruntime", 1.5, 2_000_000_000, (), "no training"),
        ],
    )


def _alone(name):
    """A row of ours without peers."""
    return row(name, {"cython": 1, "numpy": 2}, threads=2)


def printed(print_, subject, width=200, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    print_(console, subject)
    return console.file.getvalue()


class TestReport:
    def test_there_is_a_table_per_kind_and_threads(self, results):
        assert [table.title for table in tables.report(results).tables] == [
            "inference on 1 thread; ours is cython or numba",
            "inference on 2 threads; ours is cython or numba",
            "training on 1 thread; ours is cython or numba",
            "training on 2 threads; ours is cython or numba",
        ]

    def test_rows_are_ordered_from_the_worst_and_marked(self, results):
        for table in tables.report(results).tables:
            assert [line.name for line in table.lines] == [name for name, _, _ in ROWS]
            assert [line.ratio for line in table.lines] == ["0.25x", "0.50x", "2.00x", "3.00x", "8.00x", tables.MISSING]
            assert [line.verdict for line in table.lines] == ["lost", "lost", "won", "won", "won", ""]

    def test_means_are_geometric(self, results):
        table = tables.report(results).tables[0]
        assert table.means == {"lstm": "2.00x", "gru": "3.00x", "rnn": "0.25x", "all": "1.43x"}  # (2/2*8)^1/3, 6^1/5
        assert mean_ratio(results.tables()[0][2]) == pytest.approx(6 ** (1 / 5))
        assert table.lost == "lost 2 of 5 rows, the worst is rnn-50-1-64-64 at 0.25x"

    def test_a_line_tells_time_spread_peers_and_limit(self, results):
        table = tables.report(results).tables[0]
        rnn, _, lstm, *_ = table.lines
        assert table.peers == ("jax", "numba", "numpy", "torch")
        assert lstm.ours == "1.00 ms ±1%"
        assert rnn.ours == "4.00 ms ±1%"
        assert {peer: lstm.times[peer] for peer in table.peers} == {
            "jax": "4.00 ms",
            "numba": "100 us",  # a second backend of ours is shown, and is no peer to win against
            "numpy": "500 us",  # nor is the reference, where there is another
            "torch": "2.00 ms",
        }
        assert (lstm.best, table.lines[3].best) == ("torch", "numpy")
        assert lstm.limit == "33% flops"  # 2 * 50 * 2 * 4*64*64 operations at 10 GFLOP/s take 0.328 ms

    def test_what_binds_is_told(self, results):
        case = ALL["lstm-50-1-64-64"]
        bound = Bound.of(row(case.name, {"cython": 1}), BYTES_BIND)
        assert bound.binds == "bytes"
        assert bound.seconds == pytest.approx((50 * 4 * 64 * 64 + 4 * 64 * 64 + 50 * 64 * 2) * 4 / 1e9)
        assert tables.report(results).tables[1].lines[2].limit == f"{bound.seconds / (1e-3 / 1.6):.0%} bytes"

    def test_rows_without_ours_say_why(self, results):
        ragged = tables.report(results).tables[0].lines[-1]
        assert (ragged.ours, ragged.ratio, ragged.limit) == (tables.MISSING,) * 3
        assert ragged.remark == "not built"
        assert ragged.times["torch"] == "7.00 ms"

    def test_rows_without_a_peer_or_limits(self, results):
        alone = replace(results, limits={}, rows=[row("gru-50-1-64-64", {"cython": 1})])
        (table,) = tables.report(alone).tables
        assert (table.lines[0].remark, table.lines[0].limit, table.lines[0].verdict) == ("no peer", tables.MISSING, "")
        assert (table.means, table.lost) == ({}, "lost 0 of 0 rows")

    def test_notes_are_told_once(self, results):
        told = tables.report(results)
        assert told.notes == (
            "cython: not built (4 rows)",
            "numba: ragged is not implemented yet (4 rows)",
            f"onnxruntime: {NASTY} (24 rows)",
        )
        busy = "another process was busy during 1 row: lstm-100-32-256-256-ragged training on 2 threads (0.25 CPUs)"
        assert told.warnings == (busy,)

    @pytest.mark.parametrize(
        ("change", "why", "warning"),
        [
            ({"others": 0.21}, "the machine was busy", "another process was busy during 1 row: "),
            ({"samples": {"cython": samples(0.01, 0.6), "torch": samples(4)}}, "times ±60%", "times scatter by more"),
            ({"samples": {"cython": samples(0.01), "torch": samples(4, 20)}}, "times ±2000%", "times scatter by more"),
        ],
        ids=["busy", "ours scatters", "the peer scatters"],
    )
    def test_rows_of_a_busy_machine_count_for_no_mean_and_say_so(self, results, change, why, warning):
        quiet, lost = row("gru-50-1-64-64", {"cython": 1, "torch": 3}), row("rnn-50-1-64-64", {"cython": 2, "torch": 1})
        loud = replace(row("lstm-50-1-64-64", {"cython": 0.01, "torch": 4}), **change)
        told = tables.report(replace(results, rows=[loud, quiet, lost]))
        (table,) = told.tables
        assert table.means == {"gru": "3.00x", "rnn": "0.50x", "all": "1.22x"}  # 1.5^1/2
        assert table.lost == "lost 1 of 2 rows, the worst is rnn-50-1-64-64 at 0.50x"
        assert table.doubtful == "1 of 3 rows is not counted, measured on a busy machine"
        assert [line.verdict for line in table.lines] == ["lost", "won", "doubtful"]
        assert table.lines[2].remark == f"not counted: {why}"
        assert any(each.startswith(warning) and loud.name in each for each in told.warnings)

        alone = replace(results, rows=[loud])
        (table,) = tables.report(alone).tables
        assert (table.means, table.lost) == ({}, "lost 0 of 0 rows")
        assert table.doubtful in Page(render_html(alone)).text
        assert table.doubtful in printed(tables.print_results, alone)
        assert plots.speedups(alone) is None

    def test_wrong_numbers_of_ours_are_warned_of(self, results):
        wrong = row("gru-50-1-64-64", {"numba": 1, "torch": 1}, absent={"cython": "wrong: y[0] is 2, expected 1"})
        told = tables.report(replace(results, rows=[wrong]))
        assert told.warnings == ("gru-50-1-64-64 inference on 1 thread: cython is wrong: y[0] is 2, expected 1",)

    def test_only_the_busiest_rows_are_named(self, results):
        rows = [replace(row, others=1 + index / 100) for index, row in enumerate(results.rows)]
        (warning,) = tables.report(replace(results, rows=rows)).warnings
        assert warning.startswith("another process was busy during 24 rows: rnn-50-1-64-64 inference on 1 thread (1.23")
        assert warning.endswith(", 19 more")

    def test_facts_limits_and_footprints(self, results):
        told = tables.report(results)
        assert told.facts == {
            "started": "2026-01-02T03:04:05Z",
            "machine": "A CPU, cpus 2, l1 48 KiB, l2 2 MiB, memory 24 GiB, python 3.12",
            "versions": "fastrnn 0.1.0, torch 2.13.0, jax 0.10, jaxlib 0.10, numpy 2.4",
            "settings": "rounds 9, cpus 0,1",
        }
        assert told.limits.lines == (("1", "10.0", "5.00", "1000", "1000"), ("2", "1000", "1000", "1.00", "1.00"))
        assert told.footprints.columns[3:] == ("peak memory, lstm-50-1-64-64", "peak memory, gru-50-1-64-64")
        assert told.footprints.lines == (
            ("fastrnn", "90.1 ms", "71.4 MB", "12.3 MB", "0.00400 MB"),
            ("onnxruntime (no training)", "1.50 s", "2000 MB", tables.MISSING, tables.MISSING),
        )

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (1.234e-9, "0.00123 us"),
            (9.876e-6, "9.88 us"),
            (99.96e-6, "100 us"),
            (999.4e-6, "999 us"),
            (999.6e-6, "1.00 ms"),
            (0.0123, "12.3 ms"),
            (0.9996, "1.00 s"),
            (61.25, "61.2 s"),
            (1234.0, "1234 s"),
            (math.nan, tables.MISSING),
        ],
    )
    def test_times_have_a_unit_and_three_digits(self, seconds, text):
        assert tables.time_text(seconds) == text


class TestConsole:
    def test_everything_is_there_and_nothing_is_coloured(self, results):
        text = printed(tables.print_results, results)
        told = tables.report(results)
        for part in (*(name for name, _, _ in ROWS), *told.notes, *told.warnings, "not built", "lost 2 of 5 rows"):
            assert part in text
        assert "\x1b" not in text

    def test_lost_rows_are_red_and_the_best_peer_is_bold(self, results):
        lines = printed(tables.print_results, results, force_terminal=True, color_system="standard").splitlines()
        (lost, *_) = (line for line in lines if "rnn-50-1-64-64" in line)
        (won, *_) = (line for line in lines if "lstm-50-1-64-64" in line)
        assert "\x1b[31mrnn-50-1-64-64" in lost
        assert "\x1b[31m0.25x" in lost
        assert "\x1b[1m2.00 ms" in won
        assert "\x1b[32m2.00x" in won
        assert "\x1b[31m" not in won

    @pytest.mark.parametrize("width", [60, 80, 100, 160])
    def test_narrow_consoles_break_no_name_and_no_figure_and_lose_nothing(self, results, width):
        names = [*ALL, *(name for name, _, _ in ROWS)]
        text = printed(tables.print_results, replace(results, rows=[*results.rows, *map(_alone, names)]), width)
        assert max(map(len, text.splitlines())) <= width
        figures = set(text.split())
        for name in names:
            base, special = re.fullmatch(r"(\w+(?:-\d+){4}-?)(.*)", name).groups()
            assert name in figures or {base, special} <= figures
        for table in tables.report(results).tables:
            for line in table.lines:
                for figure in (line.ours, line.ratio, line.limit, *line.times.values()):
                    assert figure in text
        for footprint in tables.report(results).footprints.lines:
            for figure in footprint[1:]:
                assert figure in text

    def test_results_without_rows_are_told_too(self):
        assert "unknown" in printed(tables.print_results, Results("now", {}, {}, {}))


class TestFiles:
    def test_round_trip(self, results, tmp_path):
        save(tmp_path / "results.json", results)
        assert load(tmp_path / "results.json") == results
        assert [path.name for path in tmp_path.iterdir()] == ["results.json"]

    def test_missing_files_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError) as error:
            load(tmp_path / "missing.json")
        assert error.value.filename == str(tmp_path / "missing.json")

    @pytest.mark.parametrize(
        "change",
        [
            lambda fields: b"",
            lambda fields: b"not JSON",
            lambda fields: b"[1, 2]",
            lambda fields: msgspec.json.encode(fields)[:-5],
            lambda fields: msgspec.json.encode(fields | {"format": 2}),
            lambda fields: msgspec.json.encode(fields | {"versions": ["torch"]}),
            lambda fields: msgspec.json.encode(fields | {"rows": [{"case": "lstm-50-1-64-64"}]}),
            lambda fields: msgspec.json.encode({name: value for name, value in fields.items() if name != "machine"}),
        ],
        ids=["empty", "no JSON", "a list", "cut off", "another format", "wrong type", "wrong row", "no machine"],
    )
    def test_files_of_other_contents_are_named_in_one_line(self, results, tmp_path, change):
        path = tmp_path / "results.json"
        path.write_bytes(change(msgspec.to_builtins(results)))
        with pytest.raises(ValueError, match="does not hold results") as error:
            load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def runs(ours, peers, spread=0.01, versions=None, name="lstm-50-1-64-64"):
    """An old and a new run of one row, whose times differ by the factors `ours` and, by peer, `peers`."""
    old = {"cython": samples(2, spread)} | {peer: samples(4) for peer in peers}
    new = {"cython": samples(2 * ours, spread)} | {peer: samples(4 * factor) for peer, factor in peers.items()}
    before = {"torch": "1", "jax": "1", "jaxlib": "1", "numpy": "1"}
    machine = {"cpu": "A CPU"}
    return (
        Results("then", machine, before, {}, rows=[Row(ALL[name], "inference", 1, old)]),
        Results("now", machine, before | (versions or {}), {}, rows=[Row(ALL[name], "inference", 1, new)]),
    )


class TestComparison:
    @pytest.mark.parametrize(
        ("ours", "peers", "versions", "factor", "verdict"),
        [
            (1.2, {"torch": 1}, {}, 1.2, "slower"),
            (0.8, {"torch": 1}, {}, 0.8, "faster"),
            (1.04, {"torch": 1}, {}, 1.04, "unchanged"),
            (0.97, {"torch": 1}, {}, 0.97, "unchanged"),
            (1.2, {"torch": 1.2}, {}, 1.0, "unchanged"),
            (1.0, {"torch": 1.25}, {}, 0.8, "faster"),
            (1.2, {"torch": 1.2, "jax": 5, "numpy": 0.1}, {}, 1.0, "unchanged"),  # the median of the three
            (1.2, {"torch": 1.2, "numpy": 1}, {"torch": "2"}, 1.2, "slower"),
            (1.2, {"torch-cell": 1.2, "numpy": 1}, {"torch": "2"}, 1.2, "slower"),
            (1.2, {"jax": 1.2, "numpy": 1}, {"jaxlib": "2"}, 1.2, "slower"),
            (1.2, {"numba": 1.2}, {}, 1.2, "slower"),  # ours too: no measure of the machine
        ],
    )
    def test_verdicts_are_freed_from_drift(self, ours, peers, versions, factor, verdict):
        (change,) = compare(*runs(ours, peers, versions=versions)).changes
        assert change.factor == pytest.approx(factor)
        assert change.verdict == verdict

    def test_noise_combines_spreads(self):
        (change,) = compare(*runs(1.2, {"torch": 1, "numpy": 1}, spread=0.1)).changes
        assert change.noise == pytest.approx(2 * math.sqrt(2 * 0.1**2 + 2 * 0.01**2))
        assert change.verdict == "unchanged"
        (quiet,) = compare(*runs(1.2, {}, spread=0)).changes
        assert quiet.noise == 0.05

    def test_a_missing_drift_and_another_machine_are_told(self):
        old, new = runs(1.2, {"torch": 1.2}, versions={"torch": "2"})
        comparison = compare(old, replace(new, machine={"cpu": "B"}))
        assert comparison.changes[0].drift == 1
        assert comparison.remarks[0] == "different machines: A CPU before, B now"
        assert comparison.remarks[1].startswith("1 of 1 rows without the machine's drift")
        assert compare(*runs(1, {"torch": 1})).remarks == ()

    def test_rows_of_one_run_are_listed(self, results):
        old = replace(results, rows=[*results.rows[1:], row("gru-1-1-64-64", {"cython": 1})])
        new = replace(results, rows=[*results.rows, row("rnn-1-1-64-64", {"cython": 1})])
        comparison = compare(old, new)
        assert comparison.only_old == ("gru-1-1-64-64 inference on 1 thread",)
        assert comparison.only_new == ("rnn-1-1-64-64 inference on 1 thread",)
        assert len(comparison.changes) == sum(row.ours is not None for row in results.rows)
        assert {change.verdict for change in comparison.changes} == {"unchanged"}

    def test_slower_rows_come_first_and_the_unchanged_are_counted(self):
        pairs = [
            runs(f, {"torch": 1}, name=n)
            for f, n in ((0.5, "gru-50-1-64-64"), (1.04, "rnn-50-1-64-64"), (1.5, "lstm-50-1-64-64"))
        ]
        old, new = (replace(side[0], rows=[run.rows[0] for run in side]) for side in zip(*pairs, strict=True))
        text = printed(print_comparison, compare(old, new))
        assert text.index("lstm-50-1-64-64") < text.index("gru-50-1-64-64")
        assert "rnn-50-1-64-64" not in text
        assert "1 slower, 1 faster, 1 unchanged, geometric mean of the change 1.04x" in text
        assert "2.00 ms  3.00 ms  1.00x   1.50x    ±5%  slower" in text
        assert "\x1b" not in text
        coloured = printed(print_comparison, compare(old, new), force_terminal=True, color_system="standard")
        assert "\x1b[31mlstm-50-1-64-64" in coloured

    def test_nothing_in_common_is_told(self, results):
        text = printed(print_comparison, compare(replace(results, rows=[]), results))
        assert "0 slower, 0 faster, 0 unchanged" in text
        assert "only now: " in text


class Page(HTMLParser):
    """Checks that tags match, and keeps addresses, rows of tables and text."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.addresses, self.rows, self.text = [], [], [], [], ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][1].append(data.strip())


@pytest.fixture(scope="module")
def html(results):
    return render_html(results)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def figures(results):
    return plots.all_plots(results)


class TestPage:
    def test_it_is_well_formed_and_needs_nothing_else(self, html, page, figures):
        assert page.open == []
        assert len(page.addresses) == len(figures) == 4
        assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
        assert not {"script", "link", "iframe", "object"} & set(page.tags)
        assert "http://" not in html
        assert "https://" not in html
        assert "prefers-color-scheme: dark" in html
        assert "th:first-child { position: sticky; left: 0;" in html  # names stay in sight where a table is wider

    def test_pictures_are_drawings_that_refer_to_nothing_else(self, page):
        for address in page.addresses:
            drawing = ElementTree.fromstring(base64.b64decode(address.partition(",")[2]))
            assert drawing.tag.endswith("svg")
            links = [value for part in drawing.iter() for name, value in part.items() if name.endswith("href")]
            assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)

    def test_it_tells_what_the_console_tells(self, results, page):
        told = tables.report(results)
        for table in told.tables:
            for line in table.lines:
                times = [line.times.get(peer, tables.MISSING) for peer in table.peers]
                assert (line.verdict, [line.name, line.ours, *times, line.ratio, line.limit]) in page.rows
        for part in (*told.notes, *told.warnings, *told.facts.values(), *plots.CAPTIONS.values(), "not built"):
            assert part in page.text

    def test_lost_rows_are_marked_and_first(self, page):
        marks = [mark for mark, cells in page.rows if cells[0] in ALL]
        assert marks == ["lost", "lost", "won", "won", "won", ""] * 4

    def test_text_is_escaped(self, results):
        html = render_html(replace(results, machine={"cpu": "<b>&"}, limits={}))
        assert "<script" not in html
        assert "&lt;script&gt;alert(&#34;1 &amp; 2&#34;)&lt;/script&gt; [bold]" in html
        assert "&lt;b&gt;&amp;" in html

    def test_results_without_rows_are_a_page_too(self):
        page = Page(render_html(Results("now", {}, {}, {})))
        assert "unknown" in page.text
        assert not page.rows


def panels(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


class TestPlots:
    def test_all_are_figures_with_labelled_axes(self, figures):
        assert list(figures) == list(plots.CAPTIONS)
        for figure in figures.values():
            assert isinstance(figure, Figure)
            assert all(axes.get_xlabel() and axes.get_ylabel() for axes in panels(figure))
            assert all(axes.get_title() for axes in panels(figure))

    def test_units_are_named(self, figures):
        first = [panels(figure)[0] for figure in figures.values()]
        assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in first] == [
            ("hidden size H", "batch N"),
            ("arithmetic intensity (FLOP per byte)", "achieved (GFLOP/s)"),
            ("length T (steps)", "time per step (us)"),
            ("work of a call (FLOP)", "time on 1 thread / on 2"),
        ]

    def test_speedups_are_geometric_means_per_batch_and_hidden_size(self, results):
        figure = plots.speedups(results)
        assert len(panels(figure)) == 3 * 4
        lstm = panels(figure)[0]
        assert lstm.get_title() == "lstm, inference, 1 thread"
        assert [text.get_text() for text in lstm.texts] == ["2.00", "2.00"]  # N=1: 2; N=8: the mean of 0.5 and 8
        assert [tick.get_text() for tick in lstm.get_xticklabels()] == ["64", "512"]
        assert [tick.get_text() for tick in lstm.get_yticklabels()] == ["1", "8", "64"]
        image = lstm.images[0].get_array()
        np.testing.assert_allclose(image.filled(np.nan), [[1, np.nan], [1, np.nan], [np.nan, np.nan]])
        assert lstm.images[0].norm.vmin == -lstm.images[0].norm.vmax

    def test_cells_without_rows_have_no_panel(self, results):
        rows = [row for row in results.rows if (row.case.cell, row.kind) != ("gru", "training")]
        titles = [axes.get_title() for axes in panels(plots.speedups(replace(results, rows=rows)))]
        assert "gru, inference, 2 threads" in titles
        assert "gru, training, 1 thread" not in titles

    def test_roofline_shows_all_points_its_legend_being_below(self, results):
        figure = plots.roofline(results)
        figure.draw_without_rendering()
        for axes in panels(figure):
            assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0

    def test_roofline_shows_what_is_achieved(self, results):
        only = row("lstm-50-1-64-64", {"cython": 1, "torch": 2})
        (axes,) = panels(plots.roofline(replace(results, rows=[only])))
        lines = {line.get_label(): line for line in axes.lines}
        flops = 2 * 50 * 2 * 4 * 64 * 64
        elements = 50 * 4 * 64 * 64 + 4 * 64 * 64 + 50 * 64 * 2
        np.testing.assert_allclose(
            lines["fastrnn, inference"].get_xydata(), [[flops / elements / 4, flops / 1e-3 / 1e9]]
        )
        np.testing.assert_allclose(lines["best peer, inference"].get_ydata(), [flops / 2e-3 / 1e9])
        np.testing.assert_allclose(lines["float32 peak, 10 GFLOP/s"].get_ydata(), [10, 10])
        x, y = lines["from memory, 1000 GB/s"].get_data()
        np.testing.assert_allclose(y, np.minimum(1000 * x, 10))
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")

    def test_length_is_shown_as_time_per_step(self, results):
        figure = plots.scaling_with_length(results)
        axes = panels(figure)[0]
        assert [panel.get_title() for panel in panels(figure)][:2] == [
            "lstm, inference, 1 thread",
            "lstm, inference, 2 threads",
        ]
        lines = {line.get_label(): line.get_xydata() for line in axes.lines}
        np.testing.assert_allclose(lines["fastrnn"], [[100, 20], [1000, 2]])
        np.testing.assert_allclose(lines["torch"], [[100, 10], [1000, 16]])
        np.testing.assert_allclose(lines["jax"], [[100, 50]])
        assert {text.get_text() for text in figure.legends[0].get_texts()} == {
            "fastrnn",
            "jax",
            "numba",
            "numpy",
            "torch",
        }

    def test_threads_are_shown_as_a_factor(self, results):
        figure = plots.scaling_with_threads(results)
        assert [axes.get_title() for axes in panels(figure)] == ["inference, 2 threads", "training, 2 threads"]
        for axes in panels(figure):
            (ours,) = (line for line in axes.lines if line.get_label() == "fastrnn")
            np.testing.assert_allclose(ours.get_ydata(), 1.6)
            assert sorted(ours.get_xdata()) == list(ours.get_xdata())

    def test_there_is_no_plot_without_data(self, results):
        assert plots.all_plots(Results("now", {}, {}, {})) == {}
        single = replace(results, rows=[row for row in results.rows if row.threads == 1])
        assert plots.scaling_with_threads(single) is None
        assert plots.scaling_with_length(single) is not None
        assert plots.roofline(replace(results, limits={})) is None
        short = replace(results, rows=[row for row in results.rows if row.case not in SETS["long"]])
        assert plots.scaling_with_length(short) is None
        lonely = replace(results, rows=[row("lstm-50-1-64-64", {"cython": 1})])
        assert plots.speedups(lonely) is None
        assert list(plots.all_plots(lonely)) == ["Roofline"]

    def test_matplotlib_is_asked_for(self, results, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ModuleNotFoundError, match=r"pictures need matplotlib: pip install matplotlib"):
            plots.all_plots(results)


class TestPictures:
    def test_there_is_a_file_per_plot(self, results, tmp_path):
        paths = plots.save_pngs(tmp_path / "new" / "folder", results)
        assert [path.name for path in paths] == [
            "speed-ups.png",
            "roofline.png",
            "scaling-with-length.png",
            "scaling-with-threads.png",
        ]
        assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
        assert all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in paths)

    def test_a_failure_leaves_the_old_file(self, results, tmp_path, monkeypatch):
        (tmp_path / "speed-ups.png").write_bytes(b"old")

        def fail(source, target):
            raise OSError("the disk is gone")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            plots.save_pngs(tmp_path, results)
        assert [path.name for path in tmp_path.iterdir()] == ["speed-ups.png"]
        assert (tmp_path / "speed-ups.png").read_bytes() == b"old"
