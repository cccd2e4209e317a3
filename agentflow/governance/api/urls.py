from django.urls import path

from . import views

urlpatterns = [
    path("auth/token", views.TokenView.as_view(), name="token"),
    path("auth/token/refresh", views.TokenRefreshView.as_view(), name="token-refresh"),
    path("auth/ws-ticket", views.WebSocketTicketView.as_view(), name="ws-ticket"),
    path("me", views.MeView.as_view(), name="me"),
    path("workspaces", views.WorkspacesView.as_view(), name="workspaces"),
    path("secrets", views.SecretsView.as_view(), name="secrets"),
    path("secrets/<str:name>", views.SecretView.as_view(), name="secret"),
]
