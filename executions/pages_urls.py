"""Pages."""

from django.urls import path

from . import healing_pages, pages, point_pages

urlpatterns = [
    path("executions/", pages.execution_list, name="execution-list"),
    path("executions/<uuid:execution_id>/", pages.execution_page, name="execution-page"),
    path("executions/<uuid:execution_id>/graph", pages.execution_graph, name="execution-graph"),
    path("executions/<uuid:execution_id>/state", pages.execution_state, name="execution-state"),
    path("executions/<uuid:execution_id>/step", pages.execution_step, name="execution-step"),
    path("executions/<uuid:execution_id>/healing", healing_pages.execution_healing, name="execution-healing"),
    path("executions/<uuid:execution_id>/points", point_pages.execution_points, name="execution-points"),
    path(
        "executions/<uuid:execution_id>/points/<int:point_id>",
        point_pages.execution_point,
        name="execution-point",
    ),
]
