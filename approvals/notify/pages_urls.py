"""Pages."""

from django.urls import path

from . import choosing, pages

urlpatterns = [
    path("notifications/", choosing.preferences, name="notifications"),
    path("notifications/browser", choosing.browser, name="notifications-browser"),
    path("decide/<str:token>/", pages.decide, name="decide"),
]
