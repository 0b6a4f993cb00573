"""Measurements. Benches that run parts of SGLang in their own process do so on our platform."""

import os

from amoeba_sglang.adapters.cpu import NAME, VARIABLE

os.environ.setdefault(VARIABLE, NAME)
