"""What a library warns of reaches the user as one line that names no file of the library."""

import subprocess
import sys

CODE = """
import sys, types, warnings
from prune.runs import command_line
step = types.ModuleType("step")
step.__doc__ = "A step."
from dataclasses import dataclass
@dataclass(frozen=True)
class Config:
    pass
def run(config):
    warnings.warn("palette images with transparency\\n   should be converted", UserWarning)
    warnings.warn("old", DeprecationWarning)
step.Config, step.run = Config, run
sys.modules["step"] = step
sys.exit(command_line.run_step("prune step", "step", []))
"""


def test_a_warning_of_a_library_is_one_line_without_its_source():
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CODE], capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert ran.stderr == "warning: palette images with transparency should be converted\n"
