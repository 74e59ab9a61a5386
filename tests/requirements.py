"""The behaviours that the public API promises: an id, a sentence and where it comes from.

A test holds one with `@pytest.mark.requirement("chat.stream.usage")`. tests/test_requirements.py
fails if a requirement has no test, or a test in tests/acceptance or tests/faults no requirement.
What is not there yet is listed here too, with its `gap`; docs/compatibility.md is made from this.
"""

from typing import NamedTuple

OPENAI = "OpenAI API"
SDK = "openai-python"
AGENTS = "openai-agents-python"
ANTHROPIC = "anthropic-python"
SERVER = "Jan Server"
HTTP = "RFC 9110"
SSE = "WHATWG HTML, server-sent events"
BEARER = "RFC 6750"
MCP = "Model Context Protocol"


class Requirement(NamedTuple):
    """One behaviour. `gap` says what is missing, where something is."""

    text: str
    source: str
    gap: str = ""


AREAS = {
    "models": "Models",
    "chat": "Chat completions",
    "messages": "Messages (Anthropic's form)",
    "responses": "Responses",
    "completions": "Completions (legacy)",
    "embeddings": "Embeddings",
    "errors": "Errors",
    "input": "Hostile input",
    "auth": "Credentials and guests",
    "http": "HTTP conventions",
    "health": "Health and documentation",
    "conversations": "Conversations and their items",
    "users": "Deleting a user",
    "projects": "Projects",
    "settings": "A user's settings",
    "prompts": "Prompts",
    "turns": "Chatting in a conversation",
    "stored": "Stored completions",
    "usage": "Usage",
    "runs": "Runs: resume, cancel, idempotency",
    "faults": "Survival",
    "capacity": "Capacity and backpressure",
    "routing": "Providers and routing",
    "tools": "The server's tools",
    "log": "The log",
    "mcp": "Tools and MCP",
}

R = Requirement

REQUIREMENTS: dict[str, Requirement] = {
    "models.list": R("GET /v1/models lists the models that are served", OPENAI),
    "models.retrieve": R("GET /v1/models/{id} describes one model", OPENAI),
    "models.retrieve.slashes": R("a model id with slashes is found under its own path", SERVER),
    "models.status": R("a model's status says whether it can be used now", SERVER),
    "models.builtin": R(
        "a server that was told nothing answers with the model that comes along, and says so",
        SERVER,
    ),
    "models.unknown": R("an unknown model id is a 404", OPENAI),
    "chat.complete": R("a chat completion has id, object, created, model, choices, usage", OPENAI),
    "chat.stream": R("stream=true sends chunks that end with a finish_reason and [DONE]", OPENAI),
    "chat.stream.query": R("?stream=true streams like the body's field", SERVER),
    "chat.stream.usage": R(
        "include_usage adds one chunk with usage and no choices before [DONE]; without it none",
        OPENAI,
    ),
    "chat.stream.ids": R("each event has an id: its index from 0, without gaps", SSE),
    "chat.tools": R("an offered tool is called with arguments that are JSON", OPENAI),
    "chat.tools.stream": R("a tool call is streamed in pieces that make up one call", OPENAI),
    "chat.tools.result": R("a conversation with a tool's result is answered with text", OPENAI),
    "chat.n": R("n=2 gives two choices, streamed or not", OPENAI),
    "chat.logprobs": R("logprobs carry token, logprob, bytes and top_logprobs", OPENAI),
    "chat.json_schema": R("response_format json_schema gives JSON that fits the schema", OPENAI),
    "chat.fields": R("every request field reaches the upstream as the client wrote it", OPENAI),
    "chat.response.untouched": R(
        "fields the server does not know pass through to the client", SERVER
    ),
    "messages.create": R("a message is created, with its usage", ANTHROPIC),
    "messages.stream": R("a streamed message adds up to the whole one, on every engine", ANTHROPIC),
    "messages.tools": R("tools are called, and their answers taken, streamed or not", ANTHROPIC),
    "messages.stop": R("why and where the model stopped is told", ANTHROPIC),
    "messages.schema": R("output_config.format makes the answer fit a schema", ANTHROPIC),
    "messages.input": R("system, pictures, documents and marks for caches are taken", ANTHROPIC),
    "messages.thinking": R(
        "thoughts, signatures and cache usage of a Messages upstream come through", ANTHROPIC
    ),
    "messages.count": R("count_tokens says what a message's input_tokens will be", ANTHROPIC),
    "messages.errors": R("errors have Anthropic's envelope and raise the SDK's classes", ANTHROPIC),
    "messages.errors.stream": R("an error in the middle of a stream is an error event", ANTHROPIC),
    "messages.resume": R("a stream is read on from any event: nothing lost or doubled", SERVER),
    "messages.survive": R("kill -9 of a worker: a streamed message is what it would be", SERVER),
    "messages.cancel": R("a cancel stops a message", SERVER),
    "messages.idempotency": R("a repeat under one Idempotency-Key is the same message", SERVER),
    "responses.create": R("POST /v1/responses answers with a response", OPENAI),
    "responses.object": R(
        "a response has the fields that OpenAI and Open Responses require, always", "Open Responses"
    ),
    "responses.stream": R("a stream's events are typed, in order and numbered from 0", OPENAI),
    "responses.stream.whole": R("a stream that is left can be read to its end on any edge", SERVER),
    "responses.parse": R("an answer has the form of a JSON schema", SDK),
    "responses.agents": R("agents of the Agents SDK call functions, hand over and go on", AGENTS),
    "responses.agents.mcp": R("agents use MCP servers, by this server and of this server", AGENTS),
    "responses.functions": R("a function of the client's is called, and its output taken", OPENAI),
    "responses.functions.images": R(
        "a function's output has images and files, for models that take them", OPENAI
    ),
    "responses.functions.stream": R("a call's arguments are streamed", OPENAI),
    "responses.tool_choice": R("tool_choice is kept to, allowed_tools included", "Open Responses"),
    "responses.background.stream": R(
        "a background stream is read on with starting_after, from any number", OPENAI
    ),
    "responses.webhooks": R(
        "a webhook of a background response is signed and sent until it arrives",
        "Standard Webhooks",
    ),
    "responses.webhooks.events": R("a webhook says how a background response has ended", OPENAI),
    "responses.webhooks.project": R(
        "a response in a project's conversation tells the project's webhook", SERVER
    ),
    "responses.webhooks.queue": R(
        "a background response that ends before it began sends its webhook, once", SERVER
    ),
    "faults.webhooks": R("kill -9 of a worker: a webhook is still sent until it arrives", SERVER),
    "responses.webhooks.guard": R(
        "a webhook to where nobody may be sent is refused with the field's name", SERVER
    ),
    "responses.approval": R(
        "a call of an MCP server's tool is made once the client has approved it, and once only",
        OPENAI,
    ),
    "responses.socket": R(
        "a WebSocket at /v1/responses takes one response after the other", "Open Responses"
    ),
    "responses.socket.chain": R(
        "on a WebSocket a response that is not stored is gone on with, and what came before it",
        "Open Responses",
    ),
    "responses.code_interpreter": R(
        "files that code makes are cited, and can be read by their owner only", OPENAI
    ),
    "responses.code_files": R(
        "code finds the files that earlier code of its chain or conversation has made, and those "
        "that were sent",
        OPENAI,
    ),
    "responses.truncation": R(
        "an input that is too long is refused, or with truncation auto loses its oldest items",
        OPENAI,
    ),
    "responses.errors": R("what is wrong with a request is a 4xx that names the field", OPENAI),
    "responses.retrieve": R(
        "GET /v1/responses/{id} gives a stored response as it was answered, on any edge", OPENAI
    ),
    "responses.input_items": R("what a response was asked is listed, newest first", OPENAI),
    "responses.previous": R(
        "previous_response_id goes on from all responses before, item_reference from an item",
        OPENAI,
    ),
    "responses.hosted.context": R(
        "the next response is told what hosted tools said, whatever include shows", OPENAI
    ),
    "responses.conversation": R("responses and chats go on with one conversation", OPENAI),
    "responses.large": R(
        "of an output that is too large the beginning is kept, and what is left out is told", SERVER
    ),
    "responses.delete": R("a deleted response is gone, on every route", OPENAI),
    "responses.cancel": R("a cancelled response keeps what it had come to", OPENAI),
    "responses.usage": R("a response's tokens are counted once, not with its steps'", SERVER),
    "responses.input_tokens": R("POST /v1/responses/input_tokens counts an input", OPENAI),
    "responses.compact": R("POST /v1/responses/compact gives an input in short", OPENAI),
    "completions.complete": R("POST /v1/completions answers with text choices", OPENAI),
    "completions.stream": R("a completion is streamed in text_completion chunks", OPENAI),
    "embeddings.float": R("float embeddings are lists of numbers, one per input, in order", OPENAI),
    "embeddings.base64": R("base64 embeddings carry the same numbers, which the SDK decodes", SDK),
    "errors.unauthorized": R("a missing or wrong key raises AuthenticationError (401)", SDK),
    "errors.invalid": R("a wrong value raises BadRequestError (400) that names the field", SDK),
    "errors.model": R("an unknown model raises NotFoundError (404, model_not_found)", SDK),
    "errors.rate_limit": R("too many requests raise RateLimitError (429) with Retry-After", SDK),
    "errors.upstream": R("an upstream's 5xx raises InternalServerError", SDK),
    "errors.upstream.rejected": R("an upstream's 400 keeps its status and its message", SERVER),
    "errors.upstream.hang": R(
        "an upstream that shows only signs of life is left for the next, before the first token",
        SERVER,
    ),
    "errors.stream": R("an error after the first token raises APIError inside the stream", SDK),
    "errors.envelope": R(
        "every error has type, code, message, param and request_id, unknown routes too", OPENAI
    ),
    "input.json": R("a body that is not JSON is a 400 in the envelope", OPENAI),
    "input.types": R("a field of the wrong type is a 400 that names it", OPENAI),
    "input.large": R("a body over JAN_MAX_BODY is a 413", HTTP),
    "input.many_messages": R("4,000 messages are served, 10,000 refused by name", SERVER),
    "input.unicode": R("NUL and lone surrogates are answered or refused, never a 500", SERVER),
    "input.headers": R("header bombs are refused and the server goes on", HTTP),
    "input.fuzz": R("requests generated from our own OpenAPI document find no 5xx", SERVER),
    "input.stored": R(
        "every field of what is stored is taken or refused by name, whatever it is given", SERVER
    ),
    "input.owner": R(
        "with every method, an id of somebody else's is as good as one of nothing", SERVER
    ),
    "auth.guest": R("a guest gets a token pair and may call /v1", SERVER),
    "auth.refresh": R("a refresh token works once; its reuse is refused", SERVER),
    "auth.logout": R("after a logout the refresh token is dead", SERVER),
    "auth.me": R("GET /auth/me names the principal and how it came in", SERVER),
    "auth.key.header": R("X-API-Key is as good as a bearer token", SERVER),
    "auth.key.revoked": R("a revoked key is refused within a second", SERVER),
    "auth.garbled": R("expired, garbled and foreign tokens are a 401", BEARER),
    "auth.forged": R("identity headers that a client sends are never believed", SERVER),
    "http.headers": R(
        "answers carry X-Request-Id, X-Run-Id, X-Principal-Id, X-Auth-Method", SERVER
    ),
    "http.request_id": R("the SDK shows the request id of answers and of errors", SDK),
    "http.method": R("a wrong method is a 405 that names the right ones", HTTP),
    "http.prefix": R("/llm/v1 is an alias of /v1", SERVER),
    "health.probes": R("/healthz answers; /readyz names each dependency", SERVER),
    "health.metrics": R("/metrics is served by every process", SERVER),
    "health.pages": R("a browser shows live health at / and the operations in Swagger UI", SERVER),
    "health.openapi": R("/v1/openapi.json is valid OpenAPI; Swagger UI works offline", SERVER),
    "conversations.crud": Requirement(
        "Conversations are created with items, read, changed and deleted", OPENAI
    ),
    "users.delete": R(
        "who is deleted has nothing left, in tables or log, but what was used", SERVER
    ),
    "users.sessions": R("the sessions of a user who is deleted end on every edge", SERVER),
    "users.keys": R("the API keys of who is deleted are refused on every edge", SERVER),
    "conversations.items": Requirement(
        "Items are appended, listed both ways page by page, read and deleted", OPENAI
    ),
    "conversations.edges": R("What is written at one edge is read at the others at once", SERVER),
    "conversations.append": R("Of concurrent appends none is lost, doubled or torn apart", SERVER),
    "conversations.bounds": R("Each limit is held, and the error names the field", SERVER),
    "conversations.large": R("Thousands of items are read both ways; messages of 1 MB", SERVER),
    "conversations.if_match": R("A change can be bound to the version that was read: 409", SERVER),
    "conversations.branches": R("Branches are forked, listed, activated and deleted", SERVER),
    "conversations.branches.bounds": R("A conversation has at most 100 branches", SERVER),
    "conversations.edit": R("An edited message starts a branch, the old one stays", SERVER),
    "conversations.calls": R("The item of a tool's call is changed by the call's id", SERVER),
    "conversations.delete_all": R("A caller deletes all conversations at once", SERVER),
    "conversations.shares": R("Shares are made, listed, revoked; their readers learn so", SERVER),
    "conversations.shares.private": R("A share shows messages and nothing of its owner", SERVER),
    "conversations.shares.limits": R("Readers without a credential are held to a rate", SERVER),
    "conversations.export": R("One's conversations are downloaded as JSON or Markdown", SERVER),
    "conversations.export.stored": R("A stored export is its owner's alone, for a day", SERVER),
    "conversations.import": R("What was exported comes back the same but for its ids", SERVER),
    "projects.crud": R("projects are created, read, changed with If-Match and deleted", SERVER),
    "projects.names": R("a project's name is there once for each user, also in a race", SERVER),
    "projects.webhook": R(
        "a project's webhook is set, changed and taken away; its secret is told to nobody", SERVER
    ),
    "projects.list": R("projects are listed page by page, archived or not, favourites", SERVER),
    "projects.conversations": R(
        "a deleted project's conversations stay, and belong to none", SERVER
    ),
    "projects.instruction": R(
        "a conversation keeps the instruction that its project had when it came in", SERVER
    ),
    "settings.defaults": R("who has set nothing has Jan's defaults and the first model", SERVER),
    "settings.merge": R("changes are merged deeply; null goes back to the default", SERVER),
    "settings.checked": R("wrong ranges and unknown keys are a 400 that names the field", SERVER),
    "settings.concurrent": R("changes of different fields at once all survive", SERVER),
    "settings.preferences": R("preferences are merged and bounded; null takes one away", SERVER),
    "prompts.crud": R("prompts are kept under a name, listed by project and model", SERVER),
    "prompts.versions": R("a prompt has versions, which never change", SERVER),
    "prompts.chat": R("a chat with a prompt gets its messages, filled in, and its model", OPENAI),
    "prompts.variables": R(
        "missing and unknown variables are a 400; values are never expanded again", SERVER
    ),
    "turns.history": Requirement(
        "A chat with `conversation` sees what was said before in it, streamed or not", SERVER
    ),
    "turns.foreign": Requirement(
        "A conversation that is missing or somebody else's is a 404 before anything runs", SERVER
    ),
    "turns.incomplete": Requirement(
        "What was generated before a cancel or a failure is kept, marked incomplete", SERVER
    ),
    "turns.tools": Requirement(
        "Calls of tools and their results are kept and sent again with the history", SERVER
    ),
    "turns.store": Requirement("`store: false` reads a conversation and adds nothing", SERVER),
    "turns.runs": Requirement("A model is run on a conversation by its own path", SERVER),
    "turns.messages": Requirement(
        "A conversation's messages are listed as texts and appended one by one", SERVER
    ),
    "turns.regenerate": Requirement(
        "An answer is made anew on a new branch; the old one stays on its own", SERVER
    ),
    "turns.title": Requirement(
        "A conversation gets its title from what its user says, until one is given", SERVER
    ),
    "turns.title.model": R(
        "with JAN_TITLE_MODEL a model makes titles, beside other work; one given by hand wins",
        SERVER,
    ),
    "turns.instruction": Requirement(
        "System messages of a request are used and not stored", SERVER
    ),
    "stored.completions": Requirement(
        "Completions made with store=true are listed, filtered, read, changed and deleted", OPENAI
    ),
    "stored.messages": Requirement(
        "The messages of a stored completion are listed page by page", OPENAI
    ),
    "usage.sum": Requirement(
        "GET /v1/usage adds up requests and tokens by day, model, key and project", SERVER
    ),
    "usage.admin": Requirement("Usage of others is seen by administrators only", SERVER),
    "runs.resume": R("Last-Event-ID and starting_after continue a stream where it stood", SSE),
    "runs.resume.readers": R("several readers of one run get the same stream", SERVER),
    "runs.owner": R("a run of somebody else answers as a missing one", SERVER),
    "runs.idempotency": R("one Idempotency-Key, sent twice at once: one call upstream", SERVER),
    "runs.idempotency.after": R("after the end the same key gives the same result", SERVER),
    "runs.idempotency.conflict": R("the same key with another body is a 409", SERVER),
    "runs.cancel": R("a cancel closes the upstream's request within 200 ms", SERVER),
    "runs.disconnect": R(
        "a client that leaves closes the upstream's request within 200 ms", SERVER
    ),
    "runs.failover": R("another deployment answers when the first fails before a token", SERVER),
    "runs.slow_reader": R("a reader that stops reading stalls nobody else", SERVER),
    "runs.replay": R(
        "a recorded run is run again, on its model or another, and what differs is told", SERVER
    ),
    "runs.replay.sources": R(
        "a chat that refers to a prompt or a conversation is replayed with what that was then, or "
        "refused with what has changed",
        SERVER,
    ),
    "runs.replay.sandbox": R("a replay leaves no trace in runs and usage", SERVER),
    "runs.replay.many": R("yesterday's runs are replayed together and summed up", SERVER),
    "runs.replay.api": R(
        "POST /v1/runs/{id}/replay replays one's own runs, and with the scope admin anybody's",
        SERVER,
    ),
    "faults.responses": R(
        "a response completes once, whatever dies while it is carried out, and its events are "
        "numbered without a gap",
        SERVER,
    ),
    "faults.worker.killed": R(
        "kill -9 of a worker: every stream completes, no index missing or twice", SERVER
    ),
    "faults.worker.frozen": R("a worker frozen and thawed later changes nothing", SERVER),
    "faults.worker.drain": R("a worker told to stop lets its runs end, or hands them over", SERVER),
    "faults.worker.poison": R("a job that kills its workers ends, those beside it go on", SERVER),
    "faults.edge.killed": R(
        "kill -9 of an edge: streams resume at another, text identical", SERVER
    ),
    "faults.nats.killed": R("kill -9 of NATS: streams complete, text identical", SERVER),
    "faults.nats.stopped": R("without NATS requests get 503 within a second; it recovers", SERVER),
    "faults.bus.closed": R(
        "a process whose connection NATS ends for good ends too, and is started again", SERVER
    ),
    "faults.postgres.stopped": R("without PostgreSQL chat goes on, /readyz says degraded", SERVER),
    "faults.stored.worker": R(
        "kill -9 of persistence workers: every write is done once or not at all, as answered",
        SERVER,
    ),
    "faults.stored.database": R(
        "kill -9 of PostgreSQL: every write is done once or not at all, as answered", SERVER
    ),
    "faults.stored.turns": R(
        "kill -9 of persistence workers or PostgreSQL: every accepted turn is in its conversation "
        "once and in order, and usage is exact",
        SERVER,
    ),
    "faults.stored.away": R(
        "a write that is refused with 503 is not done later either; chat goes on", SERVER
    ),
    "faults.once": R("no accepted request is lost or run to its end twice", SERVER),
    "capacity.idle": R("2,000 idle streams on one edge stay open and are served", SERVER),
    "capacity.queue": R(
        "a full queue is 429 or 503 with Retry-After; none accepted is lost", SERVER
    ),
    "routing.failover": R(
        "errors, rate limits and silence of one deployment are seen by no client", SERVER
    ),
    "routing.shares": R(
        "deployments that work share by weight within 3 points, during a fault and after", SERVER
    ),
    "routing.retry": R("a moment in which all deployments fail is seen by no client", SERVER),
    "routing.retry_after": R(
        "an upstream's Retry-After is kept, and told when no deployment is left", HTTP
    ),
    "routing.breaker": R("a breaker is shared by all workers and outlives each of them", SERVER),
    "routing.probes": R("a provider that fails its probes gets no runs until it is back", SERVER),
    "routing.limits": R("a deployment at its limit is passed over", SERVER),
    "routing.capabilities": R(
        "a request reaches deployments that can do it; if there is none, a 400 names the field",
        SERVER,
    ),
    "routing.discovery": R(
        "a provider's own models are served, and change without a restart", SERVER
    ),
    "routing.reload": R("an edit of the providers file is in effect without a restart", SERVER),
    "routing.admin": R(
        "GET /v1/admin/providers shows every deployment, to admin keys only", SERVER
    ),
    "tools.call": R("a call is begun once and has one result, however often it comes", SERVER),
    "tools.survival": R(
        "kill -9 of a worker: an idempotent tool is run again, any other fails, known as unknown",
        SERVER,
    ),
    "tools.errors": R("a wrong call is told to the model, by the field, and never raised", SERVER),
    "tools.cancel": R("a cancel of a call, or of the run that it is a part of, ends it", SERVER),
    "tools.switch": R("an operator switches tools off, and refuses keywords", SERVER),
    "tools.breaker": R("a backend that keeps failing is left alone for a while", SERVER),
    "tools.apart": R(
        "what takes a stranger's document apart costs no more than its time and its memory", SERVER
    ),
    "tools.web_search": R(
        "web_search asks Serper, Tavily, Exa and SearXNG in turn, and cites", SERVER
    ),
    "tools.web_fetch": R(
        "web_fetch reads pages, PDFs and texts, within limits and robots.txt", SERVER
    ),
    "tools.guard": R(
        "nothing but the public internet is reached: no address form, redirect or rebinding", SERVER
    ),
    "tools.python_exec": R("python_exec runs Python, with files in and out", SERVER),
    "tools.sandbox": R(
        "code reaches no network and no files, and is bounded; without a sandbox it does not run",
        SERVER,
    ),
    "tools.file_search": R("what was indexed is found by its words, best first", SERVER),
    "tools.file_search.filters": R(
        "filters find documents by their attributes, and those that mean nothing are named", OPENAI
    ),
    "tools.file_search.owner": R("documents are their owner's alone, and go with the user", SERVER),
    "tools.file_search.forget": R("a forgotten document is found no more, nor in the log", SERVER),
    "tools.mcp.operator": R("the tools of the operator's MCP servers are the server's own", SERVER),
    "tools.mcp.request": R("a request's MCP servers are listed and called", OPENAI),
    "tools.mcp.malicious": R("a malicious MCP server hurts only its own call", SERVER),
    "tools.mcp.secrets": R(
        "credentials of MCP servers travel sealed, and are told to nobody", SERVER
    ),
    "log.runs.list": R("GET /v1/runs lists one's runs, filtered and page by page", SERVER),
    "log.runs.retrieve": R("GET /v1/runs/{id} tells a run's times, usage and workers", SERVER),
    "log.runs.events": R(
        "GET /v1/runs/{id}/events tells what the log says of a run until it has ended", SERVER
    ),
    "log.runs.owner": R("somebody else's run is as good as none", SERVER),
    "log.runs.admin": R("a key with the scope admin reads everybody's runs", SERVER),
    "log.runs.secrets": R("no credential is in what is told of a run", SERVER),
    "log.runs.input": R("a wrong parameter of a list of runs is named", SERVER),
    "log.response": R("jan log tells a response's steps and calls as a tree", SERVER),
    "log.handover": R("jan log tells the story of a run that was handed over", SERVER),
    "mcp.list": R(
        "/mcp lists this server's tools in both versions of the protocol, in a steady order", MCP
    ),
    "mcp.call": R("a call through /mcp is run by a worker and told to the log", MCP),
    "mcp.failures": R(
        "a failed call says why; what can't be called is a wrong parameter, a full queue and a "
        "deadline are told",
        MCP,
    ),
    "mcp.progress": R("a call's progress is told to a client that asks for it", MCP),
    "mcp.cancel": R(
        "a cancelled call stops its tool, as does a client that hangs up; others' calls go on", MCP
    ),
    "mcp.auth": R(
        "without a credential /mcp is a 401 that leads to its metadata; limits hold as elsewhere",
        "RFC 9728",
    ),
    "mcp.versions": R(
        "headers that differ from the message, unknown versions and methods are refused as the "
        "protocol says",
        MCP,
    ),
    "mcp.origin": R("pages of other origins, and hosts that are not listed, are refused", MCP),
    "mcp.resources": R("a user's conversations are resources, to that user only", MCP),
    "mcp.files": R("a call's files are linked in its result and read by its caller only", MCP),
    "mcp.hints": R("a tool's annotations say what is known of its effects", MCP),
    "mcp.errors": R("what is wrong with a message names the field, in this server's words", SERVER),
    "mcp.prompts": R("a user's prompt templates are prompts, to that user only", MCP),
    "mcp.tools": R("GET /v1/mcp-tools shows the tools that can be called", SERVER),
    "mcp.admin": R(
        "an administrator switches a tool off, describes it or refuses words: it is so at once",
        SERVER,
    ),
}
