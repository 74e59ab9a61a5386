"""What a worker that leaves, or dies, leaves behind of what vLLM started."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.supervisor import STOP_ORDER, STOP_SECONDS
from tests.engines.vllm_engine import needs_vllm, open_engine
from tests.support.server import eventually

# As vLLM does: a spawned process, and memory that both have.
WORKER = """
import json, multiprocessing, sys, time
from multiprocessing.shared_memory import SharedMemory

from workers.inference.engines.vllm_serving.keeper import Keeper

if __name__ == "__main__":
    keeper = Keeper()
    context = multiprocessing.get_context("spawn")
    lock = context.Lock()
    memory = SharedMemory(create=True, size=4096)
    child = context.Process(target=time.sleep, args=(600,))
    child.start()
    keeper.look()
    print(json.dumps([memory.name, child.pid]), flush=True)
    time.sleep(600)
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory has no folder here")
def test_a_killed_worker_leaves_neither_processes_nor_shared_memory(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script)]
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        try:
            assert worker.stdout is not None
            name, child = json.loads(worker.stdout.readline())
            family = psutil.Process(worker.pid).children(recursive=True)
            assert child in [process.pid for process in family]
            memory = Path("/dev/shm", name)
            assert memory.exists()
        finally:
            worker.send_signal(signal.SIGKILL)
        eventually(lambda: not any(_lives(process) for process in family))
        assert not memory.exists()


@pytest.mark.vllm
@needs_vllm
@pytest.mark.timeout(300)
async def test_vllm_ends_before_the_servers_stop_would_kill_its_worker(tmp_path: Path) -> None:
    async with open_engine(tmp_path / "llama") as engine:
        family = psutil.Process().children(recursive=True)
        begun = time.monotonic()
        await engine.close()
        assert time.monotonic() - begun < STOP_SECONDS * dict(STOP_ORDER)["worker"]
    left = [process.cmdline() for process in family if _lives(process)]
    assert all("resource_tracker" in " ".join(command) for command in left)


def _lives(process: psutil.Process) -> bool:
    """Tell whether it runs: one that has ended may wait for whoever collects it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
