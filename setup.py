"""The compiled part of fastrnn: one static C library per instruction set, one Cython extension that links them all,
and the loops that measure the machine's limits for the benchmarks.

Without a compiler the installation still succeeds; `fastrnn.info()` then says why the kernels are missing.
FASTRNN_REQUIRE_KERNELS=1 makes that failure fatal. FASTRNN_CFLAGS has more flags for the C compiler, which go after
ours: for sanitizers, coverage, quick builds.
"""

import os
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

# Instruction set -> flags of its library. Order and names are those of kernels/c/dispatch.c, whose amx is in avx512's
# library: its few instructions beyond are inline assembly.
X86 = {
    "baseline": ["-msse2"],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
X86 |= {"avx512_vnni": [*X86["avx512"], "-mavx512vnni"], "avx512_bf16": [*X86["avx512"], "-mavx512bf16"]}
ARM = {"neon": []}

# On macOS one compilation may be for both: each flag then says for which, and the other half of an object is empty.
UNIVERSAL = {
    isa: [word for flag in flags for word in (f"-Xarch_{machine}", flag)]
    for machine, isas in (("x86_64", X86), ("arm64", ARM))
    for isa, flags in isas.items()
}
MACHINES = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM, "universal2": UNIVERSAL}
MACHINE = sysconfig.get_platform().rpartition("-")[2].lower()  # of this Python: linux-x86_64, win-amd64, ...
ISAS = MACHINES.get(MACHINE, {})

# Contraction is off because every fused multiply-add is written out: the bits must not depend on the compiler's choice.
# Loops start with a cache line: else an edit elsewhere moves the tile's loop, and with it all products by up to 4 %.
# Python's own flags often ask for debugging information, which would be four fifths of a wheel.
# All cells come from the same templates; where one takes a phase of another's, its own is left out.
CFLAGS = ["-O3", "-g0", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-falign-loops=64"]
CFLAGS += ["-Wno-unused-function"]
MORE_CFLAGS = os.environ.get("FASTRNN_CFLAGS", "").split()
HEADERS = sorted(str(path) for path in Path("kernels/c").glob("*.h"))
WINDOWS = sys.platform == "win32"


def spelled(flags):
    """The flags as the compiler takes them: clang-cl wants to be told that they are Clang's."""
    return [f"/clang:{flag}" for flag in flags] if WINDOWS else flags


LIBRARIES = [
    (
        f"fastrnn_{isa}",
        {
            "sources": [f"kernels/c/isa_{isa}.c"],
            "obj_deps": {"": HEADERS},  # without it an edited header rebuilds nothing
            "cflags": spelled([*CFLAGS, *flags, *MORE_CFLAGS]),
        },
    )
    for isa, flags in ISAS.items()
]
EXTENSIONS = [
    Extension(
        "fastrnn.kernels.sequence",
        [
            "kernels/sequence.pyx",
            "kernels/c/caches.c",
            "kernels/c/dispatch.c",
            "kernels/c/memory.c",
            "kernels/c/pool.c",
        ],
        include_dirs=["kernels/c"],
        depends=[*HEADERS, "kernels/c_kernels.pxd"],
        extra_compile_args=spelled([*CFLAGS, *MORE_CFLAGS]),
        extra_link_args=[] if WINDOWS else ["-pthread", "-lm"],
    ),
    Extension(
        "fastrnn.kernels.xla",
        ["kernels/xla.pyx"],
        include_dirs=["kernels/c"],
        depends=["kernels/c/xla_ffi.h"],
        extra_compile_args=spelled(CFLAGS),
    ),
    Extension(
        "fastrnn.bench.loops",
        ["bench/loops.pyx", "bench/limit_loops.c"],
        include_dirs=["bench", "kernels/c"],
        depends=["bench/limit_loops.h", "kernels/c/cpu.h"],
        extra_compile_args=spelled([*CFLAGS, "-ffp-contract=fast"]),
    ),
]


def choose_compiler(compiler):
    """Put Clang in the place of Microsoft's compiler, which has no vector types; all else stays Microsoft's."""
    if compiler.compiler_type != "msvc":
        return
    clang = shutil.which("clang-cl")
    if clang is None:
        raise FileNotFoundError("clang-cl is not on the PATH; Microsoft's compiler has no vector types: install LLVM")
    if not compiler.initialized:
        compiler.initialize()
    compiler.cc = clang
    compiler.compile_options = [option for option in compiler.compile_options if option != "/GL"]


def note_failure(command, error, inplace):
    """Leave the reason where `fastrnn.info()` finds it, or fail."""
    if os.environ.get("FASTRNN_REQUIRE_KERNELS", "0") not in ("", "0"):
        raise error
    reason = f"compiling the C kernels failed ({type(error).__name__}: {error})".replace("\n", " ")
    print(f"warning: {reason}; fastrnn will use Numba or NumPy", file=sys.stderr)
    package = "kernels" if inplace else os.path.join(command.build_lib, "fastrnn", "kernels")
    os.makedirs(package, exist_ok=True)
    Path(package, "build_failure.txt").write_text(reason + "\n", "utf-8")


class OptionalBuildClib(build_clib):
    """The libraries are built by `OptionalBuildExt`, which knows what a failure means."""

    def run(self):
        pass

    def build(self):
        super().run()

    def build_libraries(self, libraries):
        """One library beside the other, for each takes a quarter of a minute."""
        choose_compiler(self.compiler)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(lambda library: build_clib.build_libraries(self, [library]), libraries))


class OptionalBuildExt(build_ext):
    def run(self):
        inplace = self.inplace  # setuptools takes it back while it compiles
        Path("kernels/build_failure.txt").unlink(missing_ok=True)
        try:
            if not ISAS:
                raise NotImplementedError(f"there are no C kernels for {MACHINE}")
            with ThreadPoolExecutor(1) as thread:
                self.libraries_built = thread.submit(self.get_finalized_command("build_clib").build)
                self.translate()
                super().run()
                self.libraries_built.result()  # nobody has asked where there was no extension to link
        except (Exception, SystemExit) as error:
            note_failure(self, error, inplace)
            self.extensions = self.distribution.ext_modules = []

    def build_extensions(self):
        choose_compiler(self.compiler)
        super().build_extensions()

    def get_libraries(self, ext):
        """What to link, asked for when the extension's own sources are compiled: the libraries must be there by now."""
        self.libraries_built.result()
        return super().get_libraries(ext)

    def translate(self):
        """Run Cython: here and not at import, so that metadata and sdist need no generated C."""
        import numpy
        from Cython.Build import cythonize

        translated = cythonize(
            EXTENSIONS,
            include_path=["kernels"],
            build_dir="build/cython",
            compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True},
        )
        for extension, its in zip(self.extensions, translated, strict=True):
            extension.sources = its.sources
            extension.include_dirs.append(numpy.get_include())
            extension.define_macros.append(("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"))
            extension.define_macros.append(("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION"))  # its memory handlers


setup(
    packages=[*find_packages(include=["fastrnn", "fastrnn.*"]), "fastrnn.kernels", "fastrnn.bench"],
    libraries=LIBRARIES,
    ext_modules=EXTENSIONS,
    cmdclass={"build_clib": OptionalBuildClib, "build_ext": OptionalBuildExt},
)
