"""Which URLs and addresses tools may reach: the public internet, in no disguise anything else."""

import ipaddress
from collections.abc import Sequence

import httpx2
import pytest

from schemas.outbound import Blocked, Outbound, is_public
from workers.runtime.guard import Guard, guarded_client

HOSTILE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.01/",
    "http://0/",
    "http://0.0.0.0/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xA9FEA9FE/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::a9fe:a9fe]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2001:db8::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]/",
    "http://user@93.184.216.34/",
    "http://93.184.216.34@127.0.0.1/",
    "http://user:secret@93.184.216.34/",
    "http://93.184.216.34:22/",
    "http://93.184.216.34:6379/",
    "https://93.184.216.34:5432/",
    "http://93.184.216.34:0/",
    "ftp://93.184.216.34/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_x",
    "data:text/html,x",
    "javascript:alert(1)",
    "http:///etc/passwd",
    "http://",
    "//93.184.216.34/",
    "93.184.216.34",
    "http://93.184.216.34\\@127.0.0.1/",
    "http://93.184.216.34 .example/",
    "http://example.com\t/",
    "http://exa\nmple.com/",
    "http://①②⑦.⓪.⓪.①/",
    "http://１２７.０.０.１/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://[::1",
    "http://%31%32%37.0.0.1/",
    "http://93.184.216.34/" + "x" * 3000,
]


async def no_names(host: str, port: int) -> Sequence[str]:
    """A resolver for names of this machine only."""
    if host.rstrip(".").lower() == "localhost":
        return ["127.0.0.1"]
    raise OSError("no such name")


async def ask(guard: Guard, url: str) -> httpx2.Response:
    async with guarded_client(guard, timeout=2.0) as client:
        return await client.get(guard.check(url))


@pytest.mark.requirement("tools.guard")
@pytest.mark.parametrize("url", HOSTILE)
async def test_a_hostile_url_is_not_reached(url: str) -> None:
    guard = Guard(resolver=no_names)
    with pytest.raises((Blocked, httpx2.ConnectError)) as caught:
        await ask(guard, url)
    if not isinstance(caught.value, Blocked):  # a name that nobody has
        assert "can't be found" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost/", "http://a.LOCALHOST./", "http://localhost.:8080/"]
)
def test_names_of_this_machine_are_known_without_asking(url: str) -> None:
    with pytest.raises(Blocked):
        Outbound().check(url)
    assert Outbound(["127.0.0.1"]).check(url).host


@pytest.mark.parametrize(
    "url",
    [
        "http://93.184.216.34/",
        "https://example.com/a?b=c#d",
        "https://example.com:8443/",
        "http://[2606:2800:220:1:248:1893:25c8:1946]:8080/",
        "https://bücher.example/",
    ],
)
def test_a_public_url_may_be_reached(url: str) -> None:
    assert Guard().check(url).host


def test_what_operators_allow_is_reached() -> None:
    guard = Guard(["127.0.0.1:9000", "10.0.0.0/8", "intranet", "[::1]:9000"])
    for url in (
        "http://127.0.0.1:9000/",
        "http://10.1.2.3/",
        "http://intranet:99/",
        "http://[::1]:9000/",
    ):
        assert guard.check(url)
    for url in ("http://127.0.0.1:9001/", "http://10.1.2.3:22/", "http://192.168.0.1/"):
        with pytest.raises(Blocked):
            guard.check(url)


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_known(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


async def test_one_private_address_among_several_is_enough() -> None:
    async def mixed(host: str, port: int) -> Sequence[str]:
        return ["93.184.216.34", "10.0.0.1"]

    with pytest.raises(Blocked):
        await Guard(resolver=mixed).admit("mixed.example", 443)
