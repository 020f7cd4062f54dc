"""Freed memory stays with the process on the CPU, so that the next tensor of its size costs no page faults.

Between two stages all of it goes back to the system.
"""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from lorapar.basemodel.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(77)
for _ in range(10):  # the first lie behind one another until the heap has a block that any of them fits in
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    result = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip("the C library of this machine is not glibc")
    return int(result.stdout)


def test_tensors_of_one_size_use_the_same_pages_again():
    """20 tensors of 40 MB, 9,766 pages of 4 kB each: glibc gives blocks above 32 MB back whenever they are freed."""
    assert page_faults("keep") * 5 < page_faults("plain")


GIVE_BACK = """
import gc, sys
from pathlib import Path
import torch
from lorapar.basemodel.allocator import give_back_freed_memory, keep_freed_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

class Model:
    pass

gc.disable()
if not keep_freed_memory():
    sys.exit(77)
model = Model()
model.itself, model.weights = model, [torch.ones(5_000_000) for _ in range(10)]
between = [torch.ones(1000) for _ in range(10)]
del model
kept = resident_bytes()
give_back_freed_memory()
print(kept - resident_bytes())
"""


def test_memory_of_the_stage_before_is_given_back():
    """200 MB in tensors of a model that refers to itself, with small tensors in use above them in the heap."""
    result = subprocess.run([sys.executable, "-c", GIVE_BACK], capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip("the C library of this machine is not glibc")
    assert int(result.stdout) > 190_000_000
