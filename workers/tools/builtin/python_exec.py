"""`python_exec`: runs Python in a sandbox; files go in and come out."""

import mimetypes
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas.errors import NotFound
from schemas.objects import artifact_id
from schemas.tool_options import (
    MAX_FILES_BYTES,
    McpHints,
    PythonOptions,
    exclude,
    is_file_path,
)
from schemas.tools import Artifact
from workers.tools.outcome import Answer, Failed
from workers.tools.sandbox import Produced, Ran
from workers.tools.tool import Context, builtin

_CODES: Final = {"time": "timeout", "memory": "memory_limit", "output": "output_limit"}


class PythonExec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool's arguments."""

    code: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200_000,
            description="Python 3 to run as a program. Print what you want to see; write files "
            "that should be kept into the current folder.",
        ),
    ]


class Made(msgspec.Struct, frozen=True):
    """A file that the code made. `name` is its path in the code's folder."""

    id: str
    name: str
    bytes: int
    media_type: str


class Execution(msgspec.Struct, frozen=True):
    """The tool's structured result. `exit_code` is null if it was stopped."""

    stdout: str
    stderr: str
    exit_code: int | None
    duration_ms: int
    files: list[Made]


async def run(asked: PythonExec, call: Context) -> Answer:
    """Run the code beside the files that there are for it; keep what it made."""
    files, missing = await _files_in(call)
    ran = await call.means.sandbox.run(asked.code, files)
    artifacts = [await _keep(call, number, file) for number, file in enumerate(ran.files)]
    answer = _to_answer(ran, artifacts, missing)
    if ran.stopped:
        kind, _, reason = ran.stopped.partition(": ")
        raise Failed(_CODES[kind], f"The code was stopped: {reason}.", answer=answer)
    return answer


async def _files_in(call: Context) -> tuple[list[Produced], list[str]]:
    """The files that the code gets, and the paths of those that are no longer kept."""
    found: list[Produced] = []
    missing: list[str] = []
    files = call.options(PythonOptions).files
    for number, file in enumerate(files, 1):
        if not is_file_path(file.name):
            raise Failed("invalid_options", f"A file can't be named {file.name[:100]!r}.")
        if any(exclude(file.name, newer.name) for newer in files[number:]):
            continue
        try:
            found.append(Produced(file.name, await call.means.objects.get(file.reference)))
        except NotFound:
            missing.append(file.name)
        except ValueError:
            raise Failed("invalid_options", f"Nothing can lie at {file.reference!r}.") from None
        if sum(len(one.data) for one in found) > MAX_FILES_BYTES:
            raise Failed(
                "too_large", f"The files are larger than {MAX_FILES_BYTES} bytes together."
            )
    return found, missing


async def _keep(call: Context, number: int, file: Produced) -> Artifact:
    """Put a file into the object store: under the same key, if the call is run again."""
    reference = call.artifact_name(number)
    await call.means.objects.put(reference, file.data)
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return Artifact(
        id=artifact_id(call.job.call_id, number),
        name=file.name,
        bytes=len(file.data),
        media_type=kind,
        reference=reference,
        container=call.container,
    )


def _to_answer(ran: Ran, artifacts: list[Artifact], missing: list[str]) -> Answer:
    parts = [ran.stdout.rstrip("\n")]
    if ran.stderr:
        parts.append(f"[stderr]\n{ran.stderr.rstrip()}")
    if ran.stopped:
        parts.append(f"[The code was stopped: {ran.stopped.partition(': ')[2]}.]")
    elif ran.exit_code:
        parts.append(f"[It ended with exit code {ran.exit_code}.]")
    if artifacts:
        named = ", ".join(f"{one.name} ({one.bytes} bytes)" for one in artifacts)
        parts.append(f"[Files made: {named}]")
    if missing:
        parts.append(f"[No longer kept, so not in the folder: {', '.join(missing)}]")
    if ran.left_out:
        parts.append(f"[{ran.left_out} more files are too many or too large, and were not kept.]")
    execution = Execution(
        stdout=ran.stdout,
        stderr=ran.stderr,
        exit_code=None if ran.stopped else ran.exit_code,
        duration_ms=round(ran.seconds * 1000),
        files=[Made(one.id, one.name, one.bytes, one.media_type) for one in artifacts],
    )
    text = "\n".join(part for part in parts if part)
    return Answer(text or "[It printed nothing.]", structured=execution, artifacts=artifacts)


TOOL = builtin(
    "python_exec",
    "Run Python 3 in a sandbox without network. Gives what it prints and the files that it writes "
    "into its folder. No variable is kept from one call to the next; files are, in a conversation.",
    PythonExec,
    run,
    title="Run Python",
    hints=McpHints(read_only_hint=False, destructive_hint=False, open_world_hint=False),
    output=Execution,
    # It runs in an empty sandbox that nothing outside remembers: a second run does no harm.
    idempotent=True,
    aliases=("code_interpreter",),
    lacks=lambda means: means.sandbox.lacks,
)
