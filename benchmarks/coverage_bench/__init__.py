"""Parts of benchmarks/coverage.py."""
