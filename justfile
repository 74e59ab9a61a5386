# The commands of daily work. `just` alone lists them; `.venv/bin/just` is there after `./jan test`.

python := ".venv/bin/python"

# List the recipes
default:
    @just --list

# Start the server (http://127.0.0.1:8080/v1 unless told otherwise)
up *ARGS:
    ./jan up {{ARGS}}

# Run the tests; arguments go to pytest
test *ARGS:
    ./jan test {{ARGS}}

# Run only the tests that need no service: seconds
unit *ARGS:
    ./jan test tests/unit tests/test_layout.py tests/test_lock.py tests/test_requirements.py {{ARGS}}

# Lint, check the format, check the types
lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy

# Rewrite what ruff can
format:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Everything that must hold before a change is merged
check:
    .ci/run

# Measure the whole server; `just bench --quick` takes about a minute
bench *ARGS:
    ./jan bench {{ARGS}}

# Generate docs/settings.md, docs/compatibility.md and the README's table
docs:
    {{python}} -m docs.generate

# Rewrite requirements.lock from pyproject.toml
lock:
    .venv/bin/uv pip compile pyproject.toml --extra test --universal --generate-hashes --python-version 3.11 --no-header --output-file requirements.lock
