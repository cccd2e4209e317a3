"""Pages."""

from django.urls import path

from . import choosing, notices, pages

urlpatterns = [
    path("notifications/", choosing.preferences, name="notifications"),
    path("notifications/browser", notices.browser, name="notifications-browser"),
    path("decide/<str:token>/", pages.decide, name="decide"),
]
