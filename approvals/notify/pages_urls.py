"""Pages."""

from django.urls import path

from . import choosing, pages

urlpatterns = [
    path("notifications/", choosing.preferences, name="notifications"),
    path("decide/<str:token>/", pages.decide, name="decide"),
]
