"""A site that registers the platform as an installed package does, for child processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def registered(tmp_path_factory) -> dict[str, str]:
    """The environment of a child in which our package is installed and no platform is asked for."""
    site = tmp_path_factory.mktemp("site")
    info = site / "amoeba_platform_test-0.dist-info"
    info.mkdir()
    metadata = "Metadata-Version: 2.1\nName: amoeba-platform-test\nVersion: 0\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(
        "[sglang.srt.platforms]\namoeba_cpu = amoeba_sglang.adapters.cpu:activate\n"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "SGLANG_USE_CPU_ENGINE": "0",
        "HF_HUB_OFFLINE": "1",
    }
    del environment["SGLANG_PLATFORM"]
    return environment
