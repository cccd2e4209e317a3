from django.urls import path

from . import script_views, source_views, views

urlpatterns = [
    path("agents", views.AgentsView.as_view(), name="agents"),
    path("agents/discover", source_views.DiscoverView.as_view(), name="agents-discover"),
    path("agents/sources", source_views.SourcesView.as_view(), name="agent-sources"),
    path("agents/sources/<uuid:pk>", source_views.SourceView.as_view(), name="agent-source"),
    path("agents/<uuid:pk>", views.AgentView.as_view(), name="agent"),
    path("agents/<uuid:pk>/health", views.ConditionView.as_view(), name="agent-condition"),
    path("agents/<uuid:pk>/health-check", views.AgentHealthView.as_view(), name="agent-health-check"),
    path("agents/<uuid:pk>/versions", views.AgentVersionsView.as_view(), name="agent-versions"),
    path("agents/<uuid:pk>/performance", views.PerformanceView.as_view(), name="agent-performance"),
    path("agents/<uuid:pk>/metrics", views.MetricsView.as_view(), name="agent-metrics"),
    path("agents/<uuid:pk>/reset-circuit", views.ResetCircuitView.as_view(), name="agent-reset-circuit"),
    path("scripts", script_views.ScriptsView.as_view(), name="scripts"),
    path("scripts/<uuid:pk>", script_views.ScriptView.as_view(), name="script"),
    path("scripts/<uuid:pk>/try", script_views.TryScriptView.as_view(), name="script-try"),
    path("scripts/<uuid:pk>/versions", script_views.ScriptVersionsView.as_view(), name="script-versions"),
    path(
        "scripts/<uuid:pk>/versions/<int:number>",
        script_views.ScriptVersionView.as_view(),
        name="script-version",
    ),
]
