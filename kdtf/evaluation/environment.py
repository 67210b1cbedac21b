"""What a measurement was made with, so that it can be judged later."""

import importlib.metadata
import os
import pathlib
import platform

from kdtf._version import __version__

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy")


def describe_environment() -> dict[str, str]:
    """Gives versions and the machine, by name.

    Example:
        >>> "keras" in describe_environment()
        True
    """
    described = {"kdtf": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        described[package] = importlib.metadata.version(package)
    described["system"] = f"{platform.system()} {platform.machine()}"
    described["cpu"] = f"{_cpu_name()}, {os.cpu_count()} cores"
    return described


def _cpu_name() -> str:
    # platform.processor() is empty on most Linux systems.
    info = pathlib.Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown CPU"
