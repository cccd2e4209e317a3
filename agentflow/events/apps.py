from django.apps import AppConfig


class EventsConfig(AppConfig):
    name = "agentflow.events"
    label = "events"
    verbose_name = "Events"
