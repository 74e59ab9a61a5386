"""What all tests share: their order, and how they are spread over processes.

Fixtures live in the folder that uses them.
"""

import os

import pytest

TIERS = ("unit", "engines", "integration", "acceptance", "faults", "bench")
FAULTS = TIERS.index("faults") + 1
MOST = 8  # processes: each starts servers of its own


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `./jan test` uses: none but pytest's own for a part of the tests.

    Tests wait more than they compute, so there are more processes than processors.
    """
    options = config.option
    part = config.args_source is config.ArgsSource.ARGS or options.keyword or options.markexpr
    watched = options.capture == "no" or options.lf or options.stepwise
    return 0 if part or watched else min((os.cpu_count() or 1) + 2, MOST)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the quick tiers first: what is broken at the bottom is seen before what rests on it.

    Side by side, the slow ones come first, so that all processes end at about the same time, and
    the tests of a file stay in one process, as they share fixtures. Fault tests share none.
    """
    parallel = hasattr(config, "workerinput")  # this is one of several processes
    items.sort(key=tier, reverse=parallel)
    for item in items if parallel else ():
        if item.get_closest_marker("xdist_group") is None and tier(item) != FAULTS:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


def tier(item: pytest.Item) -> int:
    """A test's place in the order; those directly under tests/ come first."""
    folder = item.nodeid.split("/")[1]
    return TIERS.index(folder) + 1 if folder in TIERS else 0
