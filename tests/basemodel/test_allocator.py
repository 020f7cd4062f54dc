"""Freed memory stays with the process on the CPU, so that the next tensor of its size costs no page faults.

Between two stages all of it goes back to the system.
"""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from lorapar.basemodel.memory import keep_freed_memory
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
from lorapar.basemodel.memory import give_back_freed_memory, keep_freed_memory

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


GATHER = """
import sys
from pathlib import Path
import torch
from lorapar.basemodel.memory import give_back_large_blocks, keep_freed_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if not {"at once": give_back_large_blocks, "keep": keep_freed_memory}[sys.argv[1]]():
    sys.exit(77)
torch.ones(200_000)  # the first starts torch's threads, whose memory stays
before, kept = resident_bytes(), []
for _ in range(20):  # a layer's weights of 2 and 12 MB are gathered and freed, and what is in use lies between them
    gathered = [torch.ones(size) for size in (500_000, 3_000_000, 500_000)]
    kept.append(torch.ones(1000))
    del gathered
print(resident_bytes() - before)
"""


def test_gathered_weights_are_gone_once_they_are_freed():
    """By processes that share the base's weights; a heap that keeps them holds the last layer's, at least."""
    held = {}
    for how in ("at once", "keep"):
        result = subprocess.run([sys.executable, "-c", GATHER, how], capture_output=True, text=True, check=False)
        if result.returncode == 77:
            pytest.skip("the C library of this machine is not glibc")
        held[how] = int(result.stdout)
    assert held["at once"] < 4_000_000 < 14_000_000 < held["keep"]
