from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    """Watching the work: metrics for Prometheus."""

    name = "monitoring"
