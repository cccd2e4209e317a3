"""Benchmarks: the engine beside raw Celery canvas, on the same machine, broker and run."""
