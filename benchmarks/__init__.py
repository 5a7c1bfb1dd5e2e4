"""Benchmarks of the service, each the answer to one question. See README.md."""
