"""What all tests share: the order of the tiers. Fixtures live in the folder that uses them."""

import pytest

TIERS = ("unit", "engines", "integration", "acceptance", "faults", "bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the quick tiers first: what is broken at the bottom is seen before what rests on it."""
    items.sort(key=tier)


def tier(item: pytest.Item) -> int:
    """A test's place in the order; those directly under tests/ come first."""
    folder = item.nodeid.split("/")[1]
    return TIERS.index(folder) + 1 if folder in TIERS else 0
