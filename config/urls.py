"""The URL map."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from agentflow.api import health, problems
from monitoring import metrics

api = [
    path("", include("agentflow.governance.api.urls")),
    path("", include("agentflow.agents.api.urls")),
    path("", include("templates_app.api.urls")),
    path("", include("executions.api.urls")),
    path("", include("approvals.api.urls")),
    path("", include("approvals.notify.api.urls")),
]

pages = [
    path("", RedirectView.as_view(url="/inbox/")),
    path(
        "login/",
        auth.LoginView.as_view(template_name="agentflow/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", auth.LogoutView.as_view(next_page="login"), name="logout"),
    path("", include("approvals.pages_urls")),
    path("", include("approvals.notify.pages_urls")),
    path("", include("executions.pages_urls")),
    path("", include("templates_app.pages_urls")),
]

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/v1/", include(api)),
    path("api/schema", SpectacularAPIView.as_view(authentication_classes=()), name="schema"),
    path(
        "api/docs",
        SpectacularSwaggerView.as_view(url_name="schema", authentication_classes=()),
        name="docs",
    ),
    path("health", health.health),
    path("ready", health.ready),
    path("metrics", metrics.metrics),
    *pages,
]

handler400 = problems.bad_request
handler403 = problems.forbidden
handler404 = problems.not_found
handler500 = problems.server_error
