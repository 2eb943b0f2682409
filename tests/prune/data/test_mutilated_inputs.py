"""A hundred mutilated folders and lists: written as a 20-line reference reads them, or refused in one line.

The mutilations, the reference and the thousand are in tests/benchmarks/mutilated_inputs.py.
"""

from __future__ import annotations

import importlib.util
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

_SPEC = importlib.util.spec_from_file_location(
    "mutilated_inputs", Path(__file__).parents[2] / "benchmarks/mutilated_inputs.py"
)
mutilated_inputs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(mutilated_inputs)


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_a_mutilated_folder_or_list_is_read_as_the_reference_reads_it_or_refused_in_one_line(seed):
    with tempfile.TemporaryDirectory() as place:
        _, _, fault = mutilated_inputs.case(random.Random(seed), Path(place))
    assert fault == "" or fault.startswith("refused: ")


def test_the_reference_reads_what_a_plain_folder_holds(tmp_path):
    for name in ("cat/1.png", "cat/in/2.jpg", "dog/.3.png", "@eaDir/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(mutilated_inputs.encoded("PNG"))
    (tmp_path / "dog/5.png").write_bytes(b"")
    assert mutilated_inputs.reference(str(tmp_path).encode()) == {(b"cat/1.png", b"cat"), (b"cat/in/2.jpg", b"cat")}
