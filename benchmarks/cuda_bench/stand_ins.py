"""Libraries that stand in for CUDA's, so that onnxruntime's CUDA provider starts without a card.

The provider registers its kernels, and onnxruntime hands it the nodes of a graph, before anything
is computed. All that needs of CUDA is that its libraries are there and say that there is a card.
These say so, and take every other call for done: nothing can be run on them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# Calls that must give an answer; every other one gives 0, for success.
_ANSWERS = {
    "cudaGetDeviceCount": "int {0}(int *n) {{ *n = 1; return 0; }}",
    "cudaGetDevice": "int {0}(int *device) {{ *device = 0; return 0; }}",
    "cudaGetDeviceProperties": "int {0}(char *all, int n) {{ memset(all, 0, 700); return 0; }}",
    "cudaMemGetInfo": "int {0}(size_t *a, size_t *b) {{ *a = *b = (size_t)1 << 34; return 0; }}",
    "cudaMalloc": "int {0}(void **p, size_t n) {{ *p = calloc(n + 1, 1); return 0; }}",
    "cudaHostAlloc": "int {0}(void **p, size_t n, int f) {{ *p = calloc(n + 1, 1); return 0; }}",
    "cudaMallocHost": "int {0}(void **p, size_t n) {{ *p = calloc(n + 1, 1); return 0; }}",
    "cudaFree": "int {0}(void *p) {{ free(p); return 0; }}",
    "cudaFreeHost": "int {0}(void *p) {{ free(p); return 0; }}",
    "cudaMemcpy": "int {0}(void *a, void *b, size_t n, int k) {{ memcpy(a, b, n); return 0; }}",
    "cudaMemcpyAsync": (
        "int {0}(void *a, void *b, size_t n, int k, void *s) {{ memcpy(a, b, n); return 0; }}"
    ),
    "cudaRuntimeGetVersion": "int {0}(int *version) {{ *version = 13000; return 0; }}",
    "cudaDriverGetVersion": "int {0}(int *version) {{ *version = 13000; return 0; }}",
    "cudaGetErrorString": 'const char *{0}(int error) {{ return ""; }}',
    "cudaGetErrorName": 'const char *{0}(int error) {{ return ""; }}',
}
_ANY = "long {0}(void) {{ return 0; }}"

# Of the symbols without a version: where they belong.
_UNVERSIONED = {
    r"cu[A-Z]": "libcuda.so.1",
    r".*Parser": "libnvonnxparser.so.10",
    r".*": "libnvinfer.so.10",
}


def build(folder: Path) -> None:
    """Put a stand-in for every library of NVIDIA's that onnxruntime's providers load in a folder.

    It takes gcc, nm and readelf. TensorRT is among them because onnxruntime lists the kernels of
    all its providers or of none.
    """
    for library, names in _wanted().items():
        source = folder / f"{library}.c"
        lines = [_ANSWERS.get(name, _ANY).format(name) for name in sorted(names)]
        source.write_text("#include <stdlib.h>\n#include <string.h>\n" + "\n".join(lines) + "\n")
        versions = folder / f"{library}.map"
        versions.write_text(f"{library} {{ *; }};\n")
        command = ["gcc", "-w", "-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{library}"]
        if library not in _UNVERSIONED.values():
            command.append(f"-Wl,--version-script={versions}")
        subprocess.run([*command, "-o", folder / library, source], check=True)


def _wanted() -> dict[str, set[str]]:
    """Library -> the functions that are called of it."""
    import onnxruntime

    wanted: dict[str, set[str]] = {}
    for provider in ("cuda", "tensorrt"):
        name = f"libonnxruntime_providers_{provider}.so"
        path = Path(onnxruntime.__file__).parent / "capi" / name
        needed = re.findall(r"NEEDED.*\[(lib(?:cu|nv).*)\]", _output("readelf", "-d", path))
        wanted |= {library: wanted.get(library, set()) for library in needed}
        for name, library in re.findall(r"^ +U (\w+)(?:@(\S+))?$", _output("nm", "-D", path), re.M):
            if library in wanted:
                wanted[library].add(name)
            elif not library and name != "Provider_GetHost":
                home = next(home for start, home in _UNVERSIONED.items() if re.match(start, name))
                wanted.setdefault(home, set()).add(name)
    return wanted


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run_with(folder: Path, *arguments: str) -> str:
    """What a Python process says that finds the stand-ins of this folder.

    They must be there when the process starts: that is when the loader reads where to look.
    """
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout
