from django.apps import AppConfig


class NotifyConfig(AppConfig):
    """Tells people and programs of questions, by mail, webhook and chat."""

    name = "approvals.notify"
    label = "notifications"
    verbose_name = "Notifications"

    def ready(self) -> None:
        from executions import ports

        from . import giving_up
        from .duty import Notifying

        ports.notifications.bind(Notifying)
        ports.given_up.bind(giving_up.tell)
