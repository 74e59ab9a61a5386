"""A real S3 server for tests: SeaweedFS over its own folder, on free ports."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import S3Error

from tests.support.ports import free_ports
from tests.support.programs import program

ACCESS_KEY = "test"
SECRET = "a-secret-of-the-tests"
BUCKET = "jan"
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.iceberg",
    "admin.port",
    "admin.port.grpc",
)


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it serves, and how to end it before its time."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server with one bucket; without the binary skip, or fail in CI."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    fixed = ("-master.telemetry=false", "-webdav=false", "-admin.ui=false", f"-bucket={BUCKET}")
    process = subprocess.Popen(
        [
            program("weed"),
            "mini",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *fixed,
            *(f"-{name}={port}" for name, port in ports.items()),
        ],
        env={
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", process)
    try:
        _until_ready(server)
        yield server
    finally:
        server.kill()


def _until_ready(server: S3Server) -> None:
    """Ask until the bucket is there: the server answers some time before it has made it."""
    deadline = time.monotonic() + 60
    retries = urllib3.Retry(40, backoff_factor=0.1, backoff_max=0.3)
    address = server.url.removeprefix("http://")
    http = urllib3.PoolManager(retries=retries)
    client = Minio(address, ACCESS_KEY, SECRET, secure=False, http_client=http)
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError("the S3 server has ended")
        with suppress(S3Error):
            if client.bucket_exists(BUCKET):
                return
    raise RuntimeError("the S3 server does not start")
