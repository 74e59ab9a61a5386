"""What all tests share: their order, and how they are spread over processes.

Fixtures live in the folder that uses them.
"""

import os

import pytest
from hypothesis import settings

TIERS = ("unit", "engines", "integration", "acceptance", "faults", "bench")
MOST = 8  # processes: each starts servers of its own

# How long an example takes says how busy the machine is.
settings.register_profile("jan", settings.default, deadline=None)
settings.load_profile("jan")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `./jan test` uses: none but pytest's own for a part of the tests.

    Tests wait more than they compute, so there are more processes than processors.
    """
    options = config.option
    part = config.args_source is config.ArgsSource.ARGS or options.keyword or options.markexpr
    watched = options.capture == "no" or options.lf or options.stepwise
    return 0 if part or watched else min((os.cpu_count() or 1) + 2, MOST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the quick tiers first: what is broken at the bottom is seen before what rests on it.

    In one of several processes, run the slow ones first, so that all end at about the same time.
    """
    items.sort(key=tier, reverse=hasattr(config, "workerinput"))


def tier(item: pytest.Item) -> int:
    """A test's place in the order; those directly under tests/ come first."""
    folder = item.nodeid.split("/")[1]
    return TIERS.index(folder) + 1 if folder in TIERS else 0
