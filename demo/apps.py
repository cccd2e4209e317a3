from django.apps import AppConfig


class DemoConfig(AppConfig):
    """The demo workspace of `make run`.  In `local` and `test` settings only; it has no models."""

    name = "demo"
