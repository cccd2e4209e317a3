"""Pages."""

from django.urls import path

from . import pages

urlpatterns = [
    path("decide/<str:token>/", pages.decide, name="decide"),
]
