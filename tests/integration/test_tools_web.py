"""What tools fetch from strangers: guarded, bounded, honest about robots; and what they search."""

import contextlib
import gzip
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from schemas.outbound import Blocked
from schemas.tools import ToolResult
from tests.support.nats import NatsServer
from tests.support.tools import ToolDesk, running_tools
from tests.support.web import Answering, Asked, Told, Web, answer, page, redirect, serving
from workers.runtime.guard import Guard, guarded_client

ARTICLE = """<html><head><title>On tides</title></head><body><nav>Home | About</nav><article>
<h1>On tides</h1><p>The sea rises and falls twice a day, as the moon pulls at it, and the sun does
so too, though less. <a href="/moon">The moon</a> is what matters most of all here.</p>
<p>Harbours publish tables of it for a whole year, and ships wait for the flood to enter.</p>
</article><footer>Cookies</footer></body></html>"""


async def fetched(
    shared_nats: NatsServer,
    tool_desk: ToolDesk,
    answering: Answering,
    path: str = "/",
    **given: Any,
) -> tuple[ToolResult, Web]:
    """Serve, and have `web_fetch` read it."""
    settings = given.pop("settings", {})
    async with (
        serving(answering) as web,
        running_tools(shared_nats, outbound_allow=[web.allowed], **settings),
    ):
        arguments = {"url": web.url + path} | given
        return await tool_desk.result("web_fetch", arguments, queue="web_fetch"), web


def without_robots(told: Told) -> Answering:
    return lambda asked: Told(status=404) if asked.path == "/robots.txt" else told


def code_of(result: ToolResult) -> str:
    assert result.error is not None
    return result.error.code


@pytest.mark.requirement("tools.web_fetch")
async def test_a_page_is_read_as_markdown(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    result, web = await fetched(shared_nats, tool_desk, without_robots(page(ARTICLE)), "/tides")
    assert result.status == "completed"
    assert "# On tides" in result.output
    assert "[The moon](" in result.output
    assert "Cookies" not in result.output
    assert result.citations[0].url == f"{web.url}/tides"
    assert result.citations[0].title == "On tides"


async def test_a_page_is_read_as_text_and_cut(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    result, _ = await fetched(
        shared_nats, tool_desk, without_robots(page(ARTICLE)), format="text", max_chars=100
    )
    assert "](" not in result.output
    assert "[Cut: the first 100 of" in result.output


async def test_a_packed_text_is_unpacked_within_the_limit(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    def packed(text: bytes) -> Told:
        headers = {"content-type": "text/plain", "content-encoding": "gzip"}
        return Told(gzip.compress(text), headers=headers)

    small, _ = await fetched(shared_nats, tool_desk, without_robots(packed(b"hello " * 10)))
    bomb, _ = await fetched(shared_nats, tool_desk, without_robots(packed(b"\0" * (50 << 20))))
    assert "hello hello" in small.output
    assert code_of(bomb) == "too_large"


async def test_a_pdf_is_read(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    told = Told(pdf("Tides of the year"), headers={"content-type": "application/pdf"})
    result, _ = await fetched(shared_nats, tool_desk, without_robots(told))
    assert "Tides of the year" in result.output


def pdf(text: str) -> bytes:
    """A PDF of one page with one line."""
    content = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    document = b"%PDF-1.4\n"
    offsets = []
    for number, part in enumerate(parts, start=1):
        offsets.append(len(document))
        document += b"%d 0 obj\n%b\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(document)
    document += b"xref\n0 6\n0000000000 65535 f \n" + table
    return document + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (Told(b"\x00" * 10, headers={"content-type": "image/png"}), "unsupported_type"),
        (Told(b"x" * (6 << 20), headers={"content-type": "text/plain"}), "too_large"),
        (Told(b"gone", 404), "http_error"),
        (redirect("/again"), "too_many_redirects"),
        (redirect("http://169.254.169.254/latest/meta-data/"), "refused"),
        (redirect("http://[::ffff:127.0.0.1]/"), "refused"),
        (redirect("file:///etc/passwd"), "refused"),
        (redirect("http://2130706433/"), "refused"),
    ],
)
async def test_what_can_not_be_read_is_said(
    shared_nats: NatsServer, tool_desk: ToolDesk, told: Told, code: str
) -> None:
    result, _ = await fetched(shared_nats, tool_desk, without_robots(told))
    assert code_of(result) == code


@pytest.mark.requirement("tools.guard")
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/", "http://localhost/", "http://169.254.169.254/", "http://0x7f.1/"],
)
async def test_inside_addresses_are_refused(
    shared_nats: NatsServer, tool_desk: ToolDesk, url: str
) -> None:
    async with running_tools(shared_nats):
        result = await tool_desk.result("web_fetch", {"url": url}, queue="web_fetch")
    assert code_of(result) == "refused"


async def test_robots_are_honoured_unless_told_otherwise(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    def answering(asked: Asked) -> Told:
        if asked.path == "/robots.txt":
            return Told(b"User-agent: *\nDisallow: /private\n")
        return page(ARTICLE)

    closed, _ = await fetched(shared_nats, tool_desk, answering, "/private/x")
    opened, _ = await fetched(shared_nats, tool_desk, answering, "/public")
    told, _ = await fetched(
        shared_nats, tool_desk, answering, "/private/x", settings={"fetch_robots": False}
    )
    assert code_of(closed) == "refused"
    assert opened.status == told.status == "completed"


async def ask(guard: Guard, url: str) -> httpx2.Response:
    async with guarded_client(guard, timeout=2.0) as client:
        return await client.get(url)


class Names:
    """A name server that gives other addresses each time."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, _host: str, _port: int) -> Sequence[str]:
        self.asked += 1
        return self._answers[min(self.asked, len(self._answers)) - 1]


async def test_a_name_that_changes_its_address_is_looked_up_once_for_each_connection() -> None:
    async with (
        serving(lambda _: page("outside"), "127.0.0.2") as outside,
        serving(lambda _: page("inside"), "127.0.0.1", outside.port) as inside,
    ):
        names = Names(["127.0.0.2"], ["127.0.0.1"])
        guard = Guard(["127.0.0.2/32"], resolver=names, ports=[outside.port])
        url = f"http://rebinding.example:{outside.port}/"
        first = await ask(guard, url)
        assert first.text == "outside"
        assert names.asked == 1
        assert outside.asked[0].headers["host"] == f"rebinding.example:{outside.port}"
        with pytest.raises(Blocked):
            await ask(guard, url)
    assert inside.asked == []


async def test_a_redirect_is_looked_at_anew() -> None:
    def answering(asked: Asked) -> Told:
        return redirect("http://169.254.169.254/latest/")

    async with serving(answering) as web:
        guard = Guard([web.allowed])
        async with guarded_client(guard) as client:
            client.follow_redirects = True  # also where a caller follows by itself
            with pytest.raises(Blocked):
                await client.get(web.url)


async def test_a_body_is_cut_off_where_it_is_too_large() -> None:
    async with (
        serving(lambda _: Told(b"x" * 100_000)) as web,
        guarded_client(Guard([web.allowed]), max_bytes=1000) as client,
    ):
        with pytest.raises(httpx2.ReadError):
            await client.get(web.url)


def serper(asked: Asked) -> Told:
    """As Serper answers."""
    assert asked.headers["x-api-key"] == "k-serper"
    return answer(
        {
            "organic": [
                {
                    "title": "Tides",
                    "link": "https://sea.example/tides",
                    "snippet": "Twice a day.",
                    "position": 1,
                },
                {"title": "Other", "link": "https://other.example/", "snippet": "x", "position": 2},
                {"title": "Bad", "link": "javascript:alert(1)"},
            ]
        }
    )


def tavily(asked: Asked) -> Told:
    """As Tavily answers."""
    assert asked.headers["authorization"] == "Bearer k-tavily"
    result = {"title": "T", "url": "https://t.example/", "content": "From T.", "score": 0.9}
    return answer({"query": "q", "results": [result]})


def exa(asked: Asked) -> Told:
    """As Exa answers."""
    assert asked.headers["x-api-key"] == "k-exa"
    return answer({"results": [{"title": "E", "url": "https://e.example/", "text": "From E."}]})


def searxng(asked: Asked) -> Told:
    """As SearXNG answers."""
    assert "format=json" in asked.target
    return answer({"results": [{"title": "S", "url": "https://s.example/", "content": "From S."}]})


def broken(asked: Asked) -> Told:
    return Told(b"<html>oops", 500)


async def searched(
    shared_nats: NatsServer, tool_desk: ToolDesk, providers: dict[str, Answering], **given: Any
) -> tuple[ToolResult, dict[str, Web]]:
    """Search with providers as small servers on this machine."""
    async with contextlib.AsyncExitStack() as stack:
        webs = {
            name: await stack.enter_async_context(serving(answering))
            for name, answering in providers.items()
        }
        settings: dict[str, Any] = {f"{name}_url": web.url for name, web in webs.items()}
        settings |= {f"{name}_api_key": f"k-{name}" for name in webs if name != "searxng"}
        settings |= given.pop("settings", {})
        await stack.enter_async_context(running_tools(shared_nats, **settings))
        options = given.pop("options", None)
        arguments = {"q": "tides"} | given
        result = await tool_desk.result(
            "web_search", arguments, queue="web_search", options=options
        )
        return result, webs


@pytest.mark.requirement("tools.web_search")
async def test_a_search_cites_what_it_found(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    result, webs = await searched(
        shared_nats, tool_desk, {"serper": serper}, gl="de", hl="en", num=5, tbs="qdr:w"
    )
    assert result.status == "completed"
    assert "1. Tides\nhttps://sea.example/tides\nTwice a day." in result.output
    assert [citation.url for citation in result.citations] == [
        "https://sea.example/tides",
        "https://other.example/",
    ]
    asked = webs["serper"].asked[0].json
    assert asked == {"q": "tides", "num": 5, "page": 1, "gl": "de", "hl": "en", "tbs": "qdr:w"}


@pytest.mark.parametrize(
    ("providers", "found"),
    [
        ({"serper": broken, "tavily": tavily, "exa": exa, "searxng": searxng}, "From T."),
        ({"serper": broken, "tavily": broken, "exa": exa, "searxng": searxng}, "From E."),
        ({"tavily": broken, "searxng": searxng}, "From S."),
    ],
)
async def test_a_search_falls_to_the_next_provider(
    shared_nats: NatsServer, tool_desk: ToolDesk, providers: dict[str, Answering], found: str
) -> None:
    result, _ = await searched(shared_nats, tool_desk, providers)
    assert found in result.output


async def test_a_search_that_fails_everywhere_names_no_key(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    result, _ = await searched(
        shared_nats, tool_desk, {"serper": broken, "exa": lambda _: Told(b"no json")}
    )
    assert code_of(result) == "unavailable"
    assert "status 500" in result.output
    assert "k-serper" not in result.output


async def test_a_search_keeps_to_the_domains_that_the_request_allows(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    options = {
        "type": "web_search",
        "filters": {"allowed_domains": ["sea.example"]},
        "user_location": {"type": "approximate", "country": "GB", "city": "London"},
        "search_context_size": "low",
    }
    result, webs = await searched(shared_nats, tool_desk, {"serper": serper}, options=options)
    refused, _ = await searched(
        shared_nats,
        tool_desk,
        {"serper": serper},
        options=options,
        domain_allow_list=["other.example"],
    )
    assert [citation.url for citation in result.citations] == ["https://sea.example/tides"]
    asked = webs["serper"].asked[0].json
    assert asked["q"] == "tides (site:sea.example)"
    assert (asked["num"], asked["gl"], asked["location"]) == (5, "gb", "London, GB")
    assert code_of(refused) == "refused"


async def test_made_up_results_say_so_and_come_only_when_told(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    none, _ = await searched(shared_nats, tool_desk, {})
    made_up, _ = await searched(shared_nats, tool_desk, {}, settings={"search_stub": True})
    offline, _ = await searched(shared_nats, tool_desk, {"serper": serper}, offline_mode=True)
    assert code_of(none) == "unavailable"
    assert made_up.output.startswith("[These results are made up")
    assert code_of(offline) == "unavailable"


@pytest.mark.requirement("tools.breaker")
async def test_a_provider_that_keeps_failing_is_left_alone(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async with serving(broken) as web:
        settings = {"serper_url": web.url, "serper_api_key": "k", "tool_breaker_failures": 2}
        async with running_tools(shared_nats, **settings):
            for _ in range(3):
                result = await tool_desk.result("web_search", {"query": "x"}, queue="web_search")
        assert len(web.asked) == 2
    assert code_of(result) == "unavailable"
    assert "tried again in" in result.output
