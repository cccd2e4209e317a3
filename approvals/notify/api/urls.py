from django.urls import path

from . import views

urlpatterns = [
    path("notifications/preferences", views.PreferencesView.as_view(), name="notification-preferences"),
    path("notifications/defaults", views.DefaultsView.as_view(), name="notification-defaults"),
    path("notifications/targets", views.TargetsView.as_view(), name="notification-targets"),
    path("notifications/targets/<uuid:pk>", views.TargetView.as_view(), name="notification-target"),
    path("notifications/deliveries", views.DeliveriesView.as_view(), name="deliveries"),
    path("notifications/deliveries/<uuid:pk>/resend", views.ResendView.as_view(), name="delivery-resend"),
]
