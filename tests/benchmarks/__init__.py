"""Benchmarks: ratios measured side by side in one run. They print tables and assert nothing."""
