"""Code in the sandbox: what it may do, and everything that it may not."""

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bus import open_store
from schemas.tool_options import is_file_path
from schemas.tools import ToolResult
from tests.support.nats import NatsServer
from tests.support.tools import ToolDesk, running_tools

sandboxed = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


async def executed(
    shared_nats: NatsServer,
    tool_desk: ToolDesk,
    code: str,
    data: Path = Path("/nonexistent"),
    **given: Any,
) -> ToolResult:
    """Run code by a worker of its own, as a model would."""
    options = given.pop("options", None)
    async with running_tools(shared_nats, data=data, tools_queues=["python_exec"], **given):
        return await tool_desk.result(
            "python_exec", {"code": code}, queue="python_exec", options=options
        )


def structured(result: ToolResult) -> Any:
    return msgspec.json.decode(result.structured or b"null")


@sandboxed
@pytest.mark.requirement("tools.python_exec")
async def test_code_runs_and_its_failure_is_told(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    fine = await executed(
        shared_nats, tool_desk, "import statistics\nprint(statistics.mean([1, 2, 6]))"
    )
    wrong = await executed(shared_nats, tool_desk, "print('before')\n1/0")
    assert (fine.status, fine.output) == ("completed", "3")
    assert structured(fine)["exit_code"] == 0
    assert wrong.status == "completed"
    assert "before\n[stderr]" in wrong.output
    assert "ZeroDivisionError" in wrong.output
    assert "exit code 1" in wrong.output


@sandboxed
async def test_files_go_in_and_come_out(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path
) -> None:
    objects = open_store(tmp_path / "objects")
    await objects.put("files/one", b"a,b\n1,2\n")
    code = "\n".join(
        [
            "text = open('table.csv').read()",
            "open('upper.csv', 'w').write(text.upper())",
            "import os; os.mkdir('sub'); open('sub/deep.bin', 'wb').write(bytes(10))",
        ]
    )
    options = {"files": [{"name": "table.csv", "reference": "files/one"}]}
    result = await executed(shared_nats, tool_desk, code, tmp_path, options=options)
    upper, deep = sorted(result.artifacts, key=lambda one: one.name, reverse=True)
    assert (upper.name, upper.bytes, upper.media_type) == ("upper.csv", 8, "text/csv")
    assert deep.name == "sub/deep.bin"
    assert upper.reference.startswith("artifacts/")
    assert upper.container in upper.reference
    assert await objects.get(upper.reference) == b"A,B\n1,2\n"


@sandboxed
async def test_a_file_goes_to_its_path_and_comes_back_from_there(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path
) -> None:
    objects = open_store(tmp_path / "objects")
    await objects.put("files/one", b"1")
    names = ["data/in.txt", "data/deep/in.txt", "a/b/c/d/e/f/g/in.txt"]
    code = "\n".join(
        [
            "from pathlib import Path",
            f"print([Path(name).read_text() for name in {names}])",
            "Path('data/deep/in.txt').write_text('2')",
        ]
    )
    options = {"files": [{"name": name, "reference": "files/one"} for name in names]}
    result = await executed(shared_nats, tool_desk, code, tmp_path, options=options)
    assert result.output.startswith("['1', '1', '1']\n[Files made: data/deep/in.txt (1 bytes)]")
    (changed,) = result.artifacts
    assert (changed.name, await objects.get(changed.reference)) == ("data/deep/in.txt", b"2")


@sandboxed
@pytest.mark.parametrize("names", [["out", "out/a", "out/b"], ["out/a", "out/b", "out"]])
async def test_of_a_file_and_a_folder_at_the_same_path_code_finds_the_newest(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path, names: list[str]
) -> None:
    await open_store(tmp_path / "objects").put("files/one", b"1")
    code = "import glob; print(sorted(glob.glob('**', recursive=True)))"
    options = {"files": [{"name": name, "reference": "files/one"} for name in names]}
    result = await executed(shared_nats, tool_desk, code, tmp_path, options=options)
    expected = ["out"] if names[-1] == "out" else ["out", "out/a", "out/b"]
    assert result.output == str(expected)


ODD_NAMES = """
import os
os.makedirs("a/b/c/d/e/f/g/h")
open("a/b/c/d/e/f/g/h/i.csv", "w").write("deep")
open("a_b_c_d_e_f_g_h_i.csv", "w").write("plain")
os.makedirs("x" * 200)
open("x" * 200 + "/" + "y" * 200 + ".csv", "w").write("long")
for name in (b"bad\\xff", b"bad\\xfe", b"bad?", b"two\\nlines", b"two_lines"):
    open(name, "w").write("odd")
"""


@sandboxed
async def test_each_odd_path_becomes_a_name_of_its_own(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path
) -> None:
    result = await executed(shared_nats, tool_desk, ODD_NAMES, tmp_path)
    names = {one.name for one in result.artifacts}
    assert len(names) == 8
    assert {"a_b_c_d_e_f_g_h_i.csv", "bad?", "two_lines"} < names
    assert all(is_file_path(name) and "/" not in name for name in names)
    assert sum(name.endswith(".csv") for name in names) == 3


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "../x",
        "a/../../x",
        "/etc/x",
        "a//x",
        "a/",
        "a/./x",
        ".hidden",
        "a/.hidden/x",
        "a/\0/x",
        "a/b/c/d/e/f/g/h/x",
        "a" * 128 + "/" + "x" * 128,
        "",
    ],
)
@sandboxed
async def test_a_file_whose_path_leads_elsewhere_is_refused(
    shared_nats: NatsServer, tool_desk: ToolDesk, name: str
) -> None:
    options = {"files": [{"name": name, "reference": "files/one"}]}
    result = await executed(shared_nats, tool_desk, "pass", options=options)
    assert result.error is not None
    assert result.error.code == "invalid_options"


REACH_NETWORK = """
import socket
hosts = [("127.0.0.1", {port}), ("{host}", {port}), ("1.1.1.1", 53), ("169.254.169.254", 80)]
for address in hosts:
    try:
        socket.create_connection(address, 1)
        print("REACHED", address)
    except OSError as error:
        print("no", error.errno)
"""


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_there_is_no_network_not_even_this_machine(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        port = listening.getsockname()[1]
        host = next(
            (
                one.address
                for addresses in psutil.net_if_addrs().values()
                for one in addresses
                if one.family == socket.AF_INET and not one.address.startswith("127.")
            ),
            "127.0.0.2",
        )
        result = await executed(shared_nats, tool_desk, REACH_NETWORK.format(port=port, host=host))
    assert result.output.count("no ") == 4
    assert "REACHED" not in result.output


LOOK_AROUND = """
import os
for path in {paths}:
    try:
        print("READ", path, open(path).read(10))
    except OSError as error:
        print("no", path, error.errno)
for path in ["/x", "/usr/x", "/dev/x", "/etc/x", "/proc/sys/kernel/core_pattern", "/home/x"]:
    try:
        open(path, "w").write("x")
        print("WROTE", path)
    except OSError as error:
        print("no", path, error.errno)
print(sorted(os.environ))
print([p for p in os.listdir("/proc") if p.isdigit()])
print("uid", os.getuid())
"""


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_there_are_no_files_processes_and_variables_of_others(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAN_SECRET", "x")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    paths = [
        str(secret),
        "/etc/passwd",
        "/etc/shadow",
        "/root/.bashrc",
        "/proc/1/environ",
        __file__,
    ]
    paths += [f"/proc/{os.getpid()}/environ", "/var/log/dpkg.log"]
    result = await executed(shared_nats, tool_desk, LOOK_AROUND.format(paths=paths))
    assert "WROTE" not in result.output
    assert [line for line in result.output.splitlines() if line.startswith("READ")] in (
        [],
        # The sandbox's own first process may be readable: it has no secret.
        [line for line in result.output.splitlines() if line.startswith("READ /proc/1/environ")],
    )
    assert "JAN_SECRET" not in result.output
    assert "uid 0" not in result.output


GAIN_POWER = """
import os, ctypes, subprocess
libc = ctypes.CDLL(None, use_errno=True)
for name, call in {
    "userns": lambda: libc.unshare(0x10000000),
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    "chroot": lambda: libc.chroot(b"/tmp"),
    "setuid": lambda: libc.setuid(0),
    "netns": lambda: libc.unshare(0x40000000),
    "reboot": lambda: libc.reboot(0x1234567),
    "nice": lambda: libc.setpriority(0, 0, -10),
}.items():
    print(name, "GAINED" if call() == 0 else "no")
print(subprocess.run(["su", "-c", "id"], capture_output=True, stdin=subprocess.DEVNULL).returncode)
"""


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_there_is_no_power_to_gain(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    result = await executed(shared_nats, tool_desk, GAIN_POWER)
    assert "GAINED" not in result.output
    assert result.output.count(" no") == 7
    assert not result.output.splitlines()[-1].startswith("0")


def is_sandboxed(process: psutil.Process) -> bool:
    """Whether a process is bubblewrap, or something in it."""
    try:
        return process.name() == "bwrap" or "/run/code.py" in process.cmdline()
    except psutil.Error:
        return False


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_a_fork_bomb_stays_small(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    most = 0
    async with running_tools(shared_nats, tools_queues=["python_exec"], python_seconds=2):
        job = await tool_desk.call("python_exec", {"code": bomb}, queue="python_exec")
        ended = asyncio.create_task(tool_desk.until_ended(job.call_id))
        while not ended.done():
            children = psutil.Process().children(recursive=True)
            most = max(most, sum(is_sandboxed(child) for child in children))
            await asyncio.wait([ended], timeout=0.1)
        reading = ended.result()
        assert not [child for child in psutil.Process().children(True) if is_sandboxed(child)]
    assert reading.result.status == "failed"
    assert 10 < most < 100


@sandboxed
@pytest.mark.requirement("tools.sandbox")
@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(2 << 30)",
        # Each within its own limit, all together not.
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        "
        "x = bytearray(os.urandom(1 << 20)) * 150\n        time.sleep(10)\ntime.sleep(10)",
    ],
)
async def test_memory_is_bounded(shared_nats: NatsServer, tool_desk: ToolDesk, code: str) -> None:
    result = await executed(shared_nats, tool_desk, code, python_memory=256 << 20)
    assert "MemoryError" in result.output or (
        result.error is not None and result.error.code == "memory_limit"
    )


@sandboxed
@pytest.mark.requirement("tools.sandbox")
@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)"])
async def test_time_is_bounded(shared_nats: NatsServer, tool_desk: ToolDesk, code: str) -> None:
    result = await executed(shared_nats, tool_desk, f"print('begun')\n{code}", python_seconds=1)
    assert result.error is not None
    assert result.error.code == "timeout"
    assert "begun" in result.output


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_a_flood_of_output_is_stopped(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    result = await executed(shared_nats, tool_desk, "while True: print('x' * 1000)")
    assert result.error is not None
    assert result.error.code == "output_limit"
    assert len(result.output) < 70_000


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_a_flood_of_files_is_bounded(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path
) -> None:
    code = "\n".join(
        [
            "for number in range(100): open(f'{number:03}.bin', 'wb').write(bytes(1000))",
            "open('large.bin', 'wb').write(bytes(30 << 20))",
            "try:",
            "    with open('/tmp/fill', 'wb') as file:",
            "        while True: file.write(bytes(1 << 20))",
            "except OSError as error: print('full', error.errno)",
        ]
    )
    result = await executed(shared_nats, tool_desk, code, tmp_path)
    assert "full" in result.output
    assert len(result.artifacts) == 20
    assert "81 more files" in result.output


ESCAPE_BY_LINKS = """
import os, socket
os.symlink("/etc/passwd", "passwd.txt")
os.symlink("/proc/1/root/etc", "etc")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("dir"); os.symlink("..", "dir/up")
open("plain.txt", "w").write("plain")
os.link("plain.txt", "hard.txt")
open(b"bad\\xff\\nname", "w").write("x")
os.symlink("/run", "run"); os.symlink("dir", "other"); open("dir/seen.txt", "w").write("seen")
os.mkdir("closed"); open("closed/x", "w"); os.chmod("closed", 0)
"""


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_links_and_special_files_are_not_followed(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path
) -> None:
    result = await executed(shared_nats, tool_desk, ESCAPE_BY_LINKS, tmp_path)
    names = sorted(one.name for one in result.artifacts)
    assert names[1:] == ["dir/seen.txt", "hard.txt", "plain.txt"]
    assert names[0].isprintable()
    stored = [path.read_bytes() for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert not any(b"root" in data for data in stored)


SWAP_FOR_LINKS = """
import ctypes, os
for number in range(900):  # too large to be kept, they give it time
    os.mknod(f"{number:03}")
    os.truncate(f"{number:03}", 9 << 20)
os.mkdir("a")
open("a/code.py", "w").write("own")
os.symlink("/run", "b")
if os.fork() == 0:
    for descriptor in (1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
    while True:
        ctypes.CDLL(None).renameat2(-100, b"a", -100, b"b", 2)  # RENAME_EXCHANGE
"""


@sandboxed
@pytest.mark.requirement("tools.sandbox")
async def test_a_folder_that_becomes_a_link_while_files_are_gathered_is_not_followed(
    shared_nats: NatsServer, tool_desk: ToolDesk, tmp_path: Path
) -> None:
    objects = open_store(tmp_path / "objects")
    async with running_tools(shared_nats, data=tmp_path, tools_queues=["python_exec"]):
        arguments = {"code": SWAP_FOR_LINKS}
        for _ in range(8):
            result = await tool_desk.result("python_exec", arguments, queue="python_exec")
            assert result.status == "completed"
            for made in result.artifacts:
                assert await objects.get(made.reference) == b"own"


@sandboxed
async def test_code_that_ends_what_watches_it_harms_only_its_own_call(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async with running_tools(shared_nats, tools_queues=["python_exec"], python_seconds=5):
        code = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint('x')"
        killed = await tool_desk.result("python_exec", {"code": code}, queue="python_exec")
        forged = await tool_desk.result(
            "python_exec",
            {
                "code": "import os, signal\nfor pid in os.listdir('/proc'):\n"
                "    if pid.isdigit() and int(pid) != os.getpid():\n"
                "        for fd in range(3, 20):\n"
                "            try: open(f'/proc/{pid}/fd/{fd}', 'wb').write("
                'b\'{"code":0,"left_out":0,"files":[["/etc/x",99999999],["a",-1]]}\\n\' * 9)\n'
                "            except Exception: pass"
            },
            queue="python_exec",
        )
        fine = await tool_desk.result("python_exec", {"code": "print(1)"}, queue="python_exec")
    assert killed.artifacts == []
    assert forged.artifacts == []
    assert fine.output == "1"


@sandboxed
@pytest.mark.parametrize("moment", [0.0, 0.0005, 0.002, 0.005, 0.01, 0.5])
async def test_a_cancel_ends_the_code_however_far_its_sandbox_is(
    shared_nats: NatsServer, tool_desk: ToolDesk, moment: float
) -> None:
    async with running_tools(shared_nats, tools_queues=["python_exec"]):
        code = "import time; time.sleep(30)"
        job = await tool_desk.call(
            "python_exec", {"code": code}, queue="python_exec", parent="resp_c"
        )
        await tool_desk.until_begun(job.call_id)
        await asyncio.sleep(moment)
        await tool_desk.cancel("resp_c")
        reading = await tool_desk.until_ended(job.call_id, 20)
        left = [child.name() for child in psutil.Process().children(recursive=True)]
    assert reading.result.status == "cancelled"
    assert "bwrap" not in left


@pytest.mark.requirement("tools.sandbox")
async def test_without_a_sandbox_no_code_runs(
    shared_nats: NatsServer, tool_desk: ToolDesk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = await executed(shared_nats, tool_desk, "print(1)")
    assert result.error is not None
    assert result.error.code == "unavailable"
    assert "bubblewrap" in result.output


@pytest.mark.requirement("tools.sandbox")
async def test_with_a_sandbox_that_fails_no_code_runs(
    shared_nats: NatsServer, tool_desk: ToolDesk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("bwrap", "setpriv", "nice"):
        (tmp_path / name).write_text("#!/bin/sh\necho no namespaces here >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    result = await executed(shared_nats, tool_desk, "print(1)")
    assert result.error is not None
    assert result.error.code == "unavailable"
    assert "bubblewrap does not work" in result.output


LIAR = """#!/usr/bin/python3
import os, sys
sys.stdin.buffer.read()
print(42)
paths = ["../x", "/etc/x", "a/../../x", "..", "a/x"]
named = ",".join(f'["{path}",0]' for path in paths)
os.write(int(sys.argv[-1]), b'{"code":0,"left_out":0,"files":[%b]}\\n' % named.encode())
"""


@pytest.fixture
def liar() -> Iterator[Path]:
    """A folder with a bubblewrap that says what it likes, for every user to run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bwrap").write_text(LIAR)
        (folder / "bwrap").chmod(0o755)
        folder.chmod(0o755)
        yield folder


@pytest.mark.requirement("tools.sandbox")
async def test_no_path_leads_elsewhere_whatever_comes_out_of_a_sandbox(
    shared_nats: NatsServer,
    tool_desk: ToolDesk,
    monkeypatch: pytest.MonkeyPatch,
    liar: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", f"{liar}:/usr/bin:/bin")
    result = await executed(shared_nats, tool_desk, "pass", tmp_path)
    *odd, plain = [one.name for one in result.artifacts]
    assert [name.partition("_")[2] for name in odd] == [".._x", "_etc_x", "a_.._.._x", ".."]
    assert plain == "a/x"
