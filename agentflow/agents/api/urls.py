from django.urls import path

from . import views

urlpatterns = [
    path("agents", views.AgentsView.as_view(), name="agents"),
    path("agents/<uuid:pk>", views.AgentView.as_view(), name="agent"),
    path("agents/<uuid:pk>/versions", views.AgentVersionsView.as_view(), name="agent-versions"),
    path("scripts", views.ScriptsView.as_view(), name="scripts"),
    path("scripts/<uuid:pk>", views.ScriptView.as_view(), name="script"),
]
