"""What a server has said, as the result of a call: its files go into the object store."""

from schemas.objects import artifact_id
from schemas.tools import Artifact
from workers.tools.mcp.talk import Said
from workers.tools.outcome import Answer, Failed
from workers.tools.tool import Context

_MAX_BLOBS = 10


async def keep_blobs(said: Said, call: Context) -> Answer:
    """Make the answer. Raises Failed, with what was said, if it is an error."""
    artifacts = []
    for number, blob in enumerate(said.blobs[:_MAX_BLOBS]):
        reference = call.artifact_name(number)
        await call.means.objects.put(reference, blob.data)
        artifacts.append(
            Artifact(
                id=artifact_id(call.job.call_id, number),
                name=blob.name,
                bytes=len(blob.data),
                media_type=blob.media_type,
                reference=reference,
                container=call.container,
            )
        )
    text = said.text or "[It said nothing.]"
    answer = Answer(text, structured=said.structured, artifacts=artifacts)
    if said.is_error:
        raise Failed("tool_error", text[:1000], answer=answer)
    return answer
