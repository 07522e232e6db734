"""Fixtures and house rules for the whole suite."""

import os
import random

import numpy
import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("house", deadline=None)  # machines are shared: no test is timed
settings.load_profile("house")

collect_ignore_glob = ["golden/*.py", "cluster/*.py"]  # scripts that are run by hand, or by `make`

# Tests that may be skipped, and why; any other skip fails the run.
ALLOWED_SKIPS: dict[str, str] = {
    "tests/nn/test_attention.py::test_on_a_gpu": "kernels for GPUs; docs/parallelism.md lists what is unproven without",
    "tests/training/test_two_nodes.py": "network namespaces need root; containers may forbid them even then",
}


@pytest.fixture(autouse=True)
def seeded(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts from the same random state and touches no one's cache."""
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run if a test outside the table was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = {report.nodeid for report in reporter.stats.get("skipped", [])} if reporter else set()
    unlisted = {node for node in skipped if not any(node.startswith(allowed) for allowed in ALLOWED_SKIPS)}
    if unlisted:
        reporter.write_line(f"skipped, but not on the table in tests/conftest.py: {sorted(unlisted)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
