"""Benchmarks: gradkit side by side with what an expert would write, in one run."""
