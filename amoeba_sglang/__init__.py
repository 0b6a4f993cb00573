"""Runtime tensor-parallel transformation for SGLang: running instances merge and split."""

__version__ = "0.1.0"
