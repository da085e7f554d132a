"""What is known of caches, and the numbers by which the C kernels choose, here and on other machines."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from problems import run_python

import fastrnn
from fastrnn import machine
from fastrnn.backends import load
from fastrnn.errors import BackendError
from fastrnn.kernels.choices import CHOICES, numbers
from fastrnn.machine import COMMON, SYSFS, Cache, Caches, cache_of_files, find_caches

KB, MB = 1 << 10, 1 << 20
ZEN_3 = Caches(Cache(32 * KB, 1), Cache(512 * KB, 1), Cache(32 * MB, 8)), 8
ZEN_4 = Caches(Cache(32 * KB, 2), Cache(1 * MB, 2), Cache(32 * MB, 16)), 16
SAPPHIRE_RAPIDS = Caches(Cache(48 * KB, 2), Cache(2 * MB, 2), Cache(105 * MB, 112)), 16
SMALL = Caches(Cache(16 * KB, 1), Cache(512 * KB, 4), Cache(0, 1)), 4  # L2 of four cores, no L3
LARGE = Caches(Cache(128 * KB, 1), Cache(24 * MB, 2), Cache(0, 1)), 4


@pytest.fixture(autouse=True)
def no_sizes_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTRNN_L1D", "FASTRNN_L2", "FASTRNN_L3"):
        monkeypatch.delenv(name, raising=False)


def write_caches(folder: Path, *caches: tuple[int, str, str, str]) -> Path:
    """Files such as Linux has of caches: level, type, size, CPUs."""
    for i, values in enumerate(caches):
        index = folder / f"cpu0/cache/index{i}"
        index.mkdir(parents=True)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
            (index / name).write_text(f"{value}\n", "utf-8")
    return folder


# What is known of this machine


def test_caches_of_this_machine_are_sane() -> None:
    l1d, l2, l3 = caches = fastrnn.info().caches
    assert 8 * KB <= l1d.size < l2.size
    assert l3.size == 0 or l3.size >= l2.size // caches.cores(l2)
    assert all(cache.size % 4096 == 0 and cache.sharing >= 1 for cache in caches)
    assert str(caches) in str(fastrnn.info())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs do not say it themselves")
def test_an_x86_cpu_says_its_caches_itself(tmp_path: Path) -> None:
    code = "from fastrnn import machine; machine.cache_of_files = machine.COMMON = None"
    run = run_python(f"{code}; from fastrnn.kernels.sequence import CACHES; print(CACHES)", tmp_path)
    assert run.stdout.startswith("L1d ")


@pytest.mark.skipif(not (SYSFS / "cpu0/cache/index2/size").exists(), reason="this system has no files about caches")
def test_the_cpu_and_linux_say_the_same() -> None:
    assert [cache.size for cache in load("cython").CACHES] == [cache_of_files(level).size for level in (1, 2, 3)]


def test_benchmarks_note_these_caches() -> None:
    bench = pytest.importorskip("fastrnn.bench.machine")
    assert [bench.cache_bytes(level) for level in (1, 2, 3)] == [cache.size for cache in find_caches()]


# Where it comes from


def test_files_say_what_data_caches_there_are(tmp_path: Path) -> None:
    write_caches(
        tmp_path,
        (1, "Instruction", "64K", "0"),
        (1, "Data", "48K", "0,2"),
        (2, "Unified", "2048K", "0-1,4-5"),
        (3, "Unified", "", "0-7"),
    )
    assert [cache_of_files(level, tmp_path) for level in (1, 2, 3)] == [
        Cache(48 * KB, 2),
        Cache(2 * MB, 4),
        Cache(0, 1),
    ]


@pytest.mark.parametrize("wrong", ["", "-", "many", "48K48K", "-1", "0x20"])
def test_files_may_hold_anything(wrong: str, tmp_path: Path) -> None:
    write_caches(tmp_path, (1, "Data", wrong, "0"), (2, "Unified", "256K", wrong))
    assert (cache_of_files(1, tmp_path), cache_of_files(2, tmp_path)) == (Cache(0, 1), Cache(256 * KB, 1))


def test_what_the_cpu_says_goes_before_files_and_these_before_what_is_common(tmp_path: Path) -> None:
    assert find_caches([(0, 1)] * 3, tmp_path / "nowhere") == COMMON
    assert find_caches([(65536, 1), (0, 1), (0, 1)], tmp_path / "nowhere") == COMMON  # half known is unknown
    write_caches(tmp_path, (1, "Data", "64K", "0"), (2, "Unified", "1024K", "0-3"))
    assert find_caches([(0, 1)] * 3, tmp_path) == (Cache(64 * KB, 1), Cache(1 * MB, 4), Cache(0, 1))
    assert find_caches((), tmp_path) == (Cache(64 * KB, 1), Cache(1 * MB, 4), Cache(0, 1))
    told = (Cache(48 * KB, 2), Cache(2 * MB, 2), Cache(105 * MB, 112))
    assert find_caches(told, tmp_path) == told


def test_the_environment_replaces_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTRNN_L2", "256K")
    monkeypatch.setenv("FASTRNN_L3", " 8388608 ")
    told = (Cache(48 * KB, 2), Cache(2 * MB, 2), Cache(105 * MB, 112))
    assert find_caches(told, tmp_path) == (told[0], Cache(256 * KB, 2), Cache(8 * MB, 112))
    assert machine.why_no_sizes() is None


@pytest.mark.parametrize("text", ["many", "-1", "0", "1.5M", "512KB", "2G", "9" * 16, "9999999M"])
def test_sizes_that_are_none_are_refused(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTRNN_L1D", text)
    said = f"FASTRNN_L1D is {text!r}; expected a number of bytes, such as 524288, 512K or 2M"
    assert machine.why_no_sizes() == said
    run = run_python("import fastrnn; fastrnn.use_backend('cython')", tmp_path, FASTRNN_L1D=text)
    assert BackendError.__name__ in run.stderr
    assert said in run.stderr


def test_caches_are_told_by_core() -> None:
    assert str(ZEN_4[0]) == "L1d 32 KB, L2 1 MB, L3 32 MB of 8 cores"
    assert str(SMALL[0]) == "L1d 16 KB, L2 512 KB of 4 cores, L3 none"


# The numbers


def chosen(caches: Caches, lanes: int) -> dict[str, int]:
    """Those that differ from machine to machine."""
    found = numbers(caches, lanes)
    return {
        name: found[name]
        for name in found
        if any(fact in CHOICES[name].formula for fact in ("l1d", "l2", "l3", "lanes"))
    }


MEASURED = {
    "LARGE_BYTES": 4 * MB,
    "PROJECTION_BYTES": 512 * KB,
    "STEPS_NOT_WORTH_PACKING_LARGE": 8,
    "GRADIENT_BYTES": 4 * MB,
    "FEW_ROWS": 16,
    "ROW_VECTORS": 8,
    "ROW_BYTES": 30 * KB,
    "BYTES_IN_TURNS": 26 * KB,
}


@pytest.mark.parametrize("where", [ZEN_4, SAPPHIRE_RAPIDS], ids=["Zen 4", "Sapphire Rapids"])
def test_numbers_are_those_that_were_measured_with_avx512(where: tuple[Caches, int]) -> None:
    assert chosen(*where) == MEASURED


def test_numbers_follow_from_caches_and_lanes() -> None:
    assert chosen(*ZEN_3) == MEASURED | {
        "PROJECTION_BYTES": 256 * KB, "STEPS_NOT_WORTH_PACKING_LARGE": 1, "FEW_ROWS": 12, "ROW_VECTORS": 24
    }  # fmt: skip
    of_four = {"STEPS_NOT_WORTH_PACKING_LARGE": 2, "FEW_ROWS": 12, "ROW_VECTORS": 24}
    assert chosen(*SMALL) == MEASURED | of_four | {
        "PROJECTION_BYTES": 64 * KB, "GRADIENT_BYTES": 1 * MB, "ROW_BYTES": 15 * KB, "BYTES_IN_TURNS": 13 * KB
    }  # fmt: skip
    assert chosen(*LARGE) == MEASURED | of_four | {"LARGE_BYTES": 24 * MB}


def test_numbers_are_positive_on_any_machine() -> None:
    for size in (1, 4096, 1 << 40):
        for lanes in (1, 2, 4, 8, 16, 32):
            found = numbers(Caches(*[Cache(size, 1)] * 3), lanes)
            assert all(0 <= number < 1 << 62 for number in found.values())


def test_each_number_of_the_kernels_stands_in_the_table() -> None:
    assert load("cython")._numbers().keys() == CHOICES.keys()
    assert all(choice.meaning for choice in CHOICES.values())


@pytest.mark.parametrize("isa", ["baseline", "neon", "avx2", "avx512"])
def test_the_kernels_take_them(isa: str, tmp_path: Path) -> None:
    """Of the instruction set that is used, which is at most this one."""
    code = (
        "from fastrnn.kernels import choices, sequence as s; "
        "print(s.why_not_runnable(), s._numbers() == choices.numbers(s.CACHES, s.LANES), s.LANES)"
    )
    known = (isa == "neon") == (platform.machine() in ("arm64", "aarch64"))
    why, same, lanes = run_python(code, tmp_path, **({"FASTRNN_ISA": isa} if known else {})).stdout.split()
    assert (why, same) == ("None", "True")
    assert 4 <= int(lanes) <= (4 if isa in ("baseline", "neon") and known else 8 if isa == "avx2" and known else 16)


def test_the_kernels_take_other_caches_and_numbers(tmp_path: Path) -> None:
    code = (
        "from fastrnn.kernels.sequence import _numbers; n = _numbers(); "
        "print(n['PROJECTION_BYTES'], n['ROW_BYTES'], n['PAIRS'])"
    )
    run = run_python(code, tmp_path, FASTRNN_L2="128K", FASTRNN_TUNE="ROW_BYTES=7", FASTRNN_L1D="8K")
    assert run.stdout == "65536 7 1\n"
