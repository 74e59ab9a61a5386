"""Health, metrics, and the description of the API."""

import httpx
import pytest

from cli.launch import LaunchedServer
from tests.support.server import http_client


@pytest.mark.requirement("health.probes")
def test_health_needs_no_credential(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    checks = ready.json()["checks"]
    assert {"nats", "inference", "database", "objects"} <= set(checks)
    assert {check["status"] for check in checks.values()} == {"ok"}


@pytest.mark.requirement("health.metrics")
def test_every_process_has_metrics(server: LaunchedServer) -> None:
    ports = {
        process.name: process.metrics_port or process.port
        for process in server.processes()
        if process.kind in ("edge", "inference", "persistence")
    }
    assert len(ports) >= 3
    for name, port in ports.items():
        response = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert response.status_code == 200, name
        assert "\n# TYPE " in response.text, name


@pytest.mark.requirement("health.openapi")
def test_the_api_describes_itself(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        document = http.get("/v1/openapi.json").raise_for_status().json()
    assert document["openapi"].startswith("3.")
    assert {"/v1/chat/completions", "/v1/models", "/v1/embeddings"} <= {
        path if path.startswith("/v1") else f"/v1{path}" for path in document["paths"]
    }


@pytest.mark.requirement("health.openapi")
def test_swagger_works_without_the_internet(server: LaunchedServer) -> None:
    with http_client(server.url) as http:
        page = http.get("/v1/swagger/index.html").raise_for_status()
        assert "text/html" in page.headers["content-type"]
        assert "://" not in page.text.replace("http://www.w3.org", "")
        script = http.get("/v1/swagger/swagger-ui-bundle.js").raise_for_status()
        assert len(script.content) > 100_000
        assert http.get("/").raise_for_status().headers["content-type"].startswith("text/html")
