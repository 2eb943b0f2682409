"""Energy from the machine's counters: packages once, a counter that begins anew, None without any."""

from __future__ import annotations

from pathlib import Path

from prune.runs.energy_counter import EnergyMeter


def zone(root: Path, name: str, microjoules: int, limit: int = 1_000_000_000) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "energy_uj").write_text(f"{microjoules}\n")
    (root / name / "max_energy_range_uj").write_text(f"{limit}\n")


def test_packages_are_added_up_and_their_parts_are_not_counted_again(tmp_path):
    for name, begin in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 0), ("intel-rapl:0:0", 1_000_000)):
        zone(tmp_path, name, begin)
    meter = EnergyMeter(tmp_path)
    meter.start()
    for name, end in (("intel-rapl:0", 7_500_000), ("intel-rapl:1", 1_000_000), ("intel-rapl:0:0", 9_000_000)):
        zone(tmp_path, name, end)
    joules = meter.joules()
    assert joules is not None
    assert joules >= 3.5  # 2.5 + 1, and what a GPU takes meanwhile where there is one
    assert {"intel-rapl:0", "intel-rapl:1"} <= set(meter.readable())
    assert "intel-rapl:0:0" not in meter.readable()


def test_a_counter_that_began_anew_is_followed(tmp_path):
    zone(tmp_path, "intel-rapl:0", 9_000_000, limit=10_000_000)
    meter = EnergyMeter(tmp_path)
    meter.start()
    zone(tmp_path, "intel-rapl:0", 500_000, limit=10_000_000)
    joules = meter.joules()
    assert joules is not None
    assert joules >= 1.5  # 10 - 9 + 0.5


def test_what_cannot_be_read_is_left_out(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("denied")
    assert "intel-rapl:0" not in EnergyMeter(tmp_path).readable()
    assert not [name for name in EnergyMeter(tmp_path / "nowhere").readable() if "rapl" in name]
