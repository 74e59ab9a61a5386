"""What the vllm engine makes of a provider, and what it says where vLLM is not installed."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import EngineUnavailable
from schemas.providers import ProviderModel, VllmOptions, VllmProvider
from tests.engines.vllm_engine import needs_vllm
from workers.inference.engines.vllm import VllmEngine
from workers.inference.engines.vllm_serving.start import to_arguments, to_engine_args


def _provider(*names: str, **options: Any) -> VllmProvider:
    models = [ProviderModel(id=f"our/{name}", served_name=name) for name in names]
    return VllmProvider(name="local", kind="vllm", models=models, options=VllmOptions(**options))


def test_the_first_models_name_is_the_model() -> None:
    assert to_engine_args(_provider("org/one", "alias")) == {
        "model": "org/one",
        "served_model_name": ["org/one", "alias"],
    }


def test_loras_are_models_of_their_own() -> None:
    given = to_engine_args(
        _provider("org/one", "poet", engine_args={"lora_modules": {"poet": "/loras/poet"}})
    )
    assert given["served_model_name"] == ["org/one"]
    assert given["enable_lora"] is True
    arguments = to_arguments(given, given)
    assert arguments[arguments.index("--lora-modules") + 1] == "poet=/loras/poet"


def test_parsers_have_options_of_their_own_and_arguments_come_last() -> None:
    given = to_engine_args(
        _provider(
            "one",
            tool_parser="hermes",
            reasoning_parser="qwen3",
            chat_template="/template.jinja",
            engine_args={"tool_call_parser": "mistral", "model": "/models/one"},
        )
    )
    assert given == {
        "model": "/models/one",
        "served_model_name": ["one"],
        "enable_auto_tool_choice": True,
        "tool_call_parser": "mistral",
        "reasoning_parser": "qwen3",
        "chat_template": "/template.jinja",
    }


def test_values_are_written_as_on_a_command_line() -> None:
    known = {"enforce_eager": False, "enable_prefix_caching": True}
    given = {
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "max_num_seqs": 8,
        "hf_overrides": {"a": [1]},
        "served_model_name": ["one", "two"],
        "revision": None,
    }
    assert to_arguments(given, known) == [
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--max-num-seqs=8",
        '--hf-overrides={"a": [1]}',
        "--served-model-name",
        "one",
        "two",
    ]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
async def test_without_vllm_the_command_that_installs_it_is_told() -> None:
    engine = VllmEngine(_provider("one"))
    for work in (engine.check(), engine.open(print)):
        with pytest.raises(EngineUnavailable) as raised:
            await work
        assert f"{sys.executable} -m pip install 'vllm" in raised.value.message
    assert engine.slots() == 0
    await engine.close()


async def test_another_vllm_than_the_one_that_is_driven_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/__init__.py").touch()  # one whose serving layer lies elsewhere
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    engine = VllmEngine(_provider("one"))
    try:
        with pytest.raises(EngineUnavailable, match=r"No module named 'vllm.*pip install"):
            await engine.open(print)
    finally:
        sys.modules.pop("vllm", None)


@pytest.mark.vllm
@needs_vllm
async def test_before_it_is_open_a_look_at_it_finds_vllm() -> None:
    await VllmEngine(_provider("one")).check()
