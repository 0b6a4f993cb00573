"""A site that registers the platform as an installed package does, for child processes."""

import os
from pathlib import Path

import pytest

from bench.base_checkout import register

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def registered(tmp_path_factory) -> dict[str, str]:
    """The environment of a child in which our package is installed and no platform is asked for."""
    site = tmp_path_factory.mktemp("site")
    register(ROOT, site)
    environment = os.environ | {
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "SGLANG_USE_CPU_ENGINE": "0",
        "HF_HUB_OFFLINE": "1",
    }
    del environment["SGLANG_PLATFORM"]
    return environment
