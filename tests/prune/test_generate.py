"""`prune generate` refuses what it cannot draw before it takes the directory."""

from __future__ import annotations

import pytest

from prune.__main__ import main


@pytest.mark.parametrize(("flag", "value"), [("--seed", "-1"), ("--rare", "1"), ("--duplicates", "0.5")])
def test_a_mistake_leaves_the_directory_free_for_the_corrected_command(tmp_path, capsys, flag, value):
    assert main(["generate", "--out", str(tmp_path / "toy"), flag, value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "toy").exists()


def test_lanterns_are_drawn_by_their_seed_and_only_the_targets_colours_overlap(tmp_path):
    import colorsys

    import numpy as np

    from prune.data.synthetic_images import LAMPS, lantern

    def hues(worn):
        """Hue of the lantern's middle, in distances between two classes from its own class's, over many drawings."""
        found = []
        for seed in range(200):
            pixels = lantern("red", np.random.default_rng(seed), worn)
            assert np.array_equal(pixels, lantern("red", np.random.default_rng(seed), worn))
            red, green, blue = pixels[14:18, 14:18].reshape(-1, 3).mean(0) / 255
            hue = colorsys.rgb_to_hsv(red, green, blue)[0] * len(LAMPS)
            found.append((hue + len(LAMPS) / 2) % len(LAMPS) - len(LAMPS) / 2)
        return np.abs(found)

    assert (hues(False) < 0.3).all()
    assert 0.05 < (hues(True) > 0.5).mean() < 0.25  # nearer to another class than to its own: 0.08 of 0.58
