"""LiteRT.js as npm installs it: where it lies, and what a page needs of it."""

import json
import os
import pathlib
import shutil
import subprocess

from kdtf.export.errors import ExportError

__all__ = ["NPM", "PACKAGE", "copy_runtime", "find_runtime", "install_runtime"]

NPM = "npm"
PACKAGE = "@litertjs/core"
# The release that tests/deploy/test_web.py runs in a browser.
VERSION = "2.5.3"
# From a `node_modules` to the page's own folder. Of the builds of WebAssembly
# these run without threads, which need special headers of the server; the
# second is for browsers without relaxed SIMD.
_FILES = {
    "@litertjs/core/dist/index.js": "core.js",
    "@litertjs/wasm-utils/dist/index.js": "wasm-utils.js",
    **{
        f"@litertjs/core/wasm/{name}.{ending}": f"wasm/{name}.{ending}"
        for name in ("litert_wasm_internal", "litert_wasm_compat_internal")
        for ending in ("js", "wasm")
    },
}
_TIME_LIMIT_SECONDS = 600


def find_runtime(given: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns the `node_modules` that holds LiteRT.js.

    Args:
        given: A `node_modules`, or a folder that has one; None looks in the
            working directory and those above it, as Node does.

    Raises:
        ValueError: It is not there, or misses a file.
    """
    start = pathlib.Path.cwd() if given is None else pathlib.Path(given)
    above = [start, *(start.resolve().parents if given is None else ())]
    places = [
        place for base in above for place in (base, base / "node_modules")
    ]
    for place in places:
        if (place / PACKAGE / "package.json").exists():
            lost = [name for name in _FILES if not (place / name).exists()]
            if not lost:
                return place
            raise ValueError(
                f"`runtime` must hold LiteRT.js {VERSION} or one like it. "
                f"Received: {str(place)!r}, where {lost[0]} is missing. "
                f"Install it with `npm install {PACKAGE}@{VERSION}`."
            )
    raise ValueError(
        f"`runtime` must be a folder with LiteRT.js. Received: "
        f"runtime={given if given is None else os.fspath(given)!r}, and no "
        f"{PACKAGE} in {str(start)!r}. Run `npm install {PACKAGE}@{VERSION}` "
        "there, or pass `runtime='npm'` to have that done now."
    )


def install_runtime(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the `node_modules` in `folder` into which npm put LiteRT.js.

    Args:
        folder: Where to install.

    Raises:
        ValueError: There is no npm.
        ExportError: It failed.
    """
    npm = shutil.which(NPM)
    if npm is None:
        raise ValueError(
            "`runtime='npm'` needs npm, which comes with Node.js. Received: no "
            "`npm` on the path. Install it, or pass a folder with LiteRT.js."
        )
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
    command = [npm, "install", *options, "--prefix", os.fspath(folder)]
    done = subprocess.run(
        [*command, f"{PACKAGE}@{VERSION}"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIME_LIMIT_SECONDS,
    )
    if done.returncode:
        words = " | ".join(done.stderr.strip().splitlines()[-3:])[-600:]
        raise ExportError(
            f"npm must install {PACKAGE}. Received: it ended with code "
            f"{done.returncode}: {words}."
        )
    return find_runtime(folder)


def copy_runtime(modules: pathlib.Path, folder: pathlib.Path) -> str:
    """Copies into `folder` what a page needs, and returns its version.

    Args:
        modules: What `find_runtime` gave.
        folder: Where to write; made.
    """
    for source, target in _FILES.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not their access rights: npm makes them executable.
        shutil.copyfile(modules / source, path)
    facts = json.loads((modules / PACKAGE / "package.json").read_text())
    return str(facts["version"])
