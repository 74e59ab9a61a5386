"""GET /v1/models, by the SDK."""

import openai
import pytest

from tests.acceptance.conftest import SIMULATED, SLASHED


@pytest.mark.requirement("models.list")
def test_the_models_that_are_served_are_listed(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert {SIMULATED, SLASHED} <= {model.id for model in models}
    assert all(model.object == "model" and model.created > 0 for model in models)
    assert all(model.owned_by for model in models)


@pytest.mark.requirement("models.retrieve")
def test_one_model_is_described(client: openai.OpenAI) -> None:
    model = client.models.retrieve(SIMULATED)
    assert (model.id, model.object) == (SIMULATED, "model")


@pytest.mark.requirement("models.retrieve.slashes")
def test_a_model_id_with_slashes_is_found(client: openai.OpenAI) -> None:
    # The SDK escapes the slashes; people paste them as they are.
    assert client.models.retrieve(SLASHED).id == SLASHED
    assert client.get(f"/models/{SLASHED}", cast_to=openai.types.Model).id == SLASHED


@pytest.mark.requirement("models.unknown")
def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"
