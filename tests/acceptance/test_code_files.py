"""Files that a response's code finds: those of earlier code, and those that were sent."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest
from openai.types.responses import Response

from cli.launch import LaunchedServer
from tests.acceptance.test_responses_socket import ask, opened, read
from tests.support.server import openai_client, running_server

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="code runs in a sandbox only")

CUED: Final = """
providers:
  - name: cued
    kind: simulated
    options: {token_ms: 0, cues: true}
    models: [{id: cued, capabilities: [chat, tools]}]
"""
COUNT: Final = """
from pathlib import Path
file = Path("count.txt")
count = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(count))
print("count", count)
"""
DEEP: Final = "import os; os.makedirs('out/deep', exist_ok=True); os.chdir('out/deep')" + COUNT
FOLDER: Final = "import os; os.mkdir('out'); open('out/a.csv', 'w').write('a')"
FILE: Final = "import shutil; shutil.rmtree('out'); open('out', 'w').write('file')"
LOOK: Final = "import glob; print(sorted(glob.glob('**', recursive=True)))"
READ: Final = "print(open('data.csv').read().upper())"
TABLE: Final = "data:text/csv;base64," + base64.b64encode(b"a,b\n1,2\n").decode()


@pytest.fixture(scope="module")
def coding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    file: Path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    file.write_text(CUED)
    with running_server("--providers", str(file)) as server:
        yield server


@pytest.fixture(scope="module")
def client(coding: LaunchedServer) -> Iterator[openai.OpenAI]:
    with openai_client(coding.url, coding.create_key()) as client:
        yield client


def code(text: str, *, rounds: int = 1) -> str:
    """What makes the model run code."""
    return f"!tool code_interpreter {json.dumps({'code': text})}\n!rounds {rounds}"


def respond(client: openai.OpenAI, asked: Any, container: Any = None, **more: Any) -> Any:
    tool = {"type": "code_interpreter", "container": container or {"type": "auto"}}
    include = ["code_interpreter_call.outputs"]
    return client.responses.create(model="cued", input=asked, tools=[tool], include=include, **more)


def printed(response: Any) -> list[str]:
    calls = [item for item in response.output if item.type == "code_interpreter_call"]
    return [call.outputs[0].logs.partition("\n[")[0].strip() for call in calls]


def with_file(text: str, **file: str) -> list[Any]:
    parts = [{"type": "input_file", **file}, {"type": "input_text", "text": text}]
    return [{"role": "user", "content": parts}]


@pytest.mark.requirement("responses.code_files")
def test_each_step_finds_what_the_one_before_has_made(client: openai.OpenAI) -> None:
    assert printed(respond(client, code(COUNT, rounds=3))) == ["count 1", "count 2", "count 3"]


@pytest.mark.requirement("responses.code_files")
def test_a_chain_goes_on_with_its_files(client: openai.OpenAI) -> None:
    first = respond(client, code(COUNT))
    second = respond(client, code(COUNT), previous_response_id=first.id)
    third = respond(client, code(COUNT), previous_response_id=second.id)
    assert [printed(one) for one in (second, third)] == [["count 2"], ["count 3"]]
    assert printed(respond(client, code(COUNT))) == ["count 1"]


@pytest.mark.requirement("responses.code_files")
def test_files_in_folders_are_found_where_they_were_put(client: openai.OpenAI) -> None:
    first = respond(client, code(DEEP, rounds=2))
    second = respond(client, code(DEEP), previous_response_id=first.id)
    container = next(item.container_id for item in second.output if hasattr(item, "container_id"))
    third = respond(client, code(DEEP), container)
    assert printed(first) == ["count 1", "count 2"]
    assert [printed(one) for one in (second, third)] == [["count 3"], ["count 4"]]
    conversation = client.conversations.create().id
    said = [respond(client, code(DEEP), conversation=conversation) for _ in range(2)]
    assert [printed(one) for one in said] == [["count 1"], ["count 2"]]


@pytest.mark.requirement("responses.code_interpreter")
def test_a_file_in_a_folder_is_told_and_cited_by_its_path(client: openai.OpenAI) -> None:
    response = respond(client, code(FOLDER + "; open('a.csv', 'w').write('other')"))
    call, message = response.output
    assert "[Files made: a.csv (5 bytes), out/a.csv (1 bytes)]" in call.outputs[0].logs
    (content,) = message.content
    cited = {one.filename: one for one in content.annotations}
    assert sorted(cited) == ["a.csv", "out/a.csv"]
    for name, one in cited.items():
        assert content.text[one.start_index : one.end_index] == name
    read = client.containers.files.content.retrieve
    own = read(cited["out/a.csv"].file_id, container_id=call.container_id)
    assert own.content == b"a"
    assert own.response.headers["content-disposition"] == "attachment"


@pytest.mark.requirement("responses.code_files")
def test_a_file_may_become_a_folder_and_a_folder_a_file(client: openai.OpenAI) -> None:
    first = respond(client, code("open('out', 'w').write('file'); open('kept', 'w').write('kept')"))
    replace = code(f"import os; os.remove('out'); {FOLDER}")
    second = respond(client, replace, previous_response_id=first.id)
    third = respond(client, code(LOOK), previous_response_id=second.id)
    fourth = respond(client, code(FILE), previous_response_id=third.id)
    fifth = respond(client, code(LOOK), previous_response_id=fourth.id)
    assert printed(third) == ["['kept', 'out', 'out/a.csv']"]
    assert printed(fifth) == ["['kept', 'out']"]


@pytest.mark.requirement("responses.code_files")
@pytest.mark.parametrize("store", [True, False])
def test_a_chain_on_one_socket_goes_on_with_its_files(coding: LaunchedServer, store: bool) -> None:
    key = coding.create_key()
    with openai_client(coding.url, key) as client, opened(coding, key) as socket:
        before = respond(client, code(COUNT)).id
        for count in ("count 2", "count 3"):
            tool = {"type": "code_interpreter", "container": {"type": "auto"}}
            more = {"model": "cued", "tools": [tool], "store": store}
            more["include"] = ["code_interpreter_call.outputs"]
            ask(socket, input=code(COUNT), previous_response_id=before, **more)
            response = Response.model_validate(read(socket)[-1]["response"])
            assert printed(response)[0] == count
            before = response.id


@pytest.mark.requirement("responses.code_files")
def test_a_conversation_goes_on_with_its_files(client: openai.OpenAI) -> None:
    conversation = client.conversations.create().id
    said = [respond(client, code(COUNT), conversation=conversation) for _ in range(2)]
    assert [printed(one) for one in said] == [["count 1"], ["count 2"]]


@pytest.mark.requirement("responses.code_files")
def test_a_container_is_gone_on_with_by_its_id(
    client: openai.OpenAI, coding: LaunchedServer
) -> None:
    first = respond(client, code(COUNT))
    container = next(item.container_id for item in first.output if hasattr(item, "container_id"))
    assert printed(respond(client, code(COUNT), container)) == ["count 2"]
    with (
        openai_client(coding.url, coding.create_key()) as other,
        pytest.raises(openai.NotFoundError) as refused,
    ):
        respond(other, code(COUNT), container)
    assert refused.value.param == "tools[0].container"


@pytest.mark.requirement("responses.code_files")
def test_what_was_sent_is_there_for_code_also_later(client: openai.OpenAI) -> None:
    first = respond(client, with_file(code(READ), filename="../data.csv", file_data=TABLE))
    second = respond(client, code(READ), previous_response_id=first.id)
    assert printed(first) == printed(second) == ["A,B\n1,2"]


@pytest.mark.requirement("responses.code_files")
def test_a_newer_file_takes_the_place_of_an_older_one(client: openai.OpenAI) -> None:
    write = "open('data.csv', 'w').write('x')"
    first = respond(client, with_file(code(write), filename="data.csv", file_data=TABLE))
    second = respond(client, code(READ), previous_response_id=first.id)
    again = with_file(code(READ), filename="data.csv", file_data=TABLE)
    third = respond(client, again, previous_response_id=second.id)
    assert [printed(one) for one in (second, third)] == [["X"], ["A,B\n1,2"]]


@pytest.mark.requirement("responses.code_files")
@pytest.mark.parametrize(
    ("container", "data", "param"),
    [
        ({"type": "auto", "file_ids": ["file-1"]}, TABLE, "tools[0].container.file_ids"),
        ({"type": "auto", "memory_limit": "4g"}, TABLE, "tools[0].container.memory_limit"),
        ("cntr_1", TABLE, "tools[0].container"),
        ("../../x\0", TABLE, "tools[0].container"),
        (None, "data:text/csv;base64,!", "input[0].content[0].file_data"),
        (None, "data:text/csv,a", "input[0].content[0].file_data"),
    ],
)
def test_what_code_can_not_be_given_is_refused_by_its_name(
    client: openai.OpenAI, container: Any, data: str, param: str
) -> None:
    asked = with_file("Hello.", filename="data.csv", file_data=data)
    with pytest.raises(openai.APIStatusError) as refused:
        respond(client, asked, container)
    assert refused.value.param == param
    assert refused.value.status_code in (400, 404)
