"""Wiring only: settings, URL map, ASGI, Celery, the local supervisor."""

from .celery import app as celery_app

__all__ = ["celery_app"]
