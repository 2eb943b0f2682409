"""Energy in joules from counters of the machine: RAPL of Intel and AMD, NVML of NVIDIA; None where none is readable.

RAPL counts what the processor packages take (`/sys/class/powercap/intel-rapl:*/energy_uj`; many systems let only root
read it), NVML what each GPU takes since its driver was loaded. Neither counts memory, disks, fans and losses.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from pathlib import Path

RAPL = Path("/sys/class/powercap")


@dataclass
class EnergyMeter:
    """What the machine's counters gain between `start` and `joules`.

    Attributes
    ----------
    root : Path
        Where RAPL's zones lie.
    """

    root: Path = RAPL
    _begin: dict[str, tuple[float, float]] = field(default_factory=dict)

    def start(self) -> None:
        """Begin to count."""
        self._begin = _counters(self.root)

    def joules(self) -> float | None:
        """Joules since `start`; None where no counter is readable. A counter that began anew meanwhile is followed."""
        now = _counters(self.root)
        found = [
            now[name][0] - before + (limit if now[name][0] < before else 0.0)
            for name, (before, limit) in self._begin.items()
            if name in now
        ]
        return sum(found) if found else None

    def readable(self) -> list[str]:
        """Names of the counters that can be read, such as intel-rapl:0 or NVML 0."""
        return sorted(_counters(self.root))


def _counters(root: Path) -> dict[str, tuple[float, float]]:
    """Of each counter its joules, and those at which it begins anew."""
    found: dict[str, tuple[float, float]] = {}
    for zone in sorted(root.glob("intel-rapl:*")) if root.is_dir() else []:
        if zone.name.count(":") > 1:  # a part of a package, which the package counts already
            continue
        try:
            joules = int((zone / "energy_uj").read_text()) / 1e6
            limit = int((zone / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            continue
        found[zone.name] = (joules, limit)
    return found | {f"NVML {k}": (joules, 0.0) for k, joules in enumerate(_gpus())}


def _gpus() -> list[float]:
    """Joules of each NVIDIA GPU since its driver was loaded; [] without one, or with one older than Volta."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    count, found = ctypes.c_uint(), []
    try:
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        for k in range(count.value):
            device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
            if nvml.nvmlDeviceGetHandleByIndex_v2(k, ctypes.byref(device)):
                continue
            if not nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)):
                found.append(millijoules.value / 1000)
        nvml.nvmlShutdown()
    except AttributeError:  # a library without these functions
        return []
    return found
