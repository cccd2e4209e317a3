"""Pages."""

from django.urls import path

from . import pages

urlpatterns = [path("templates/", pages.template_list, name="template-list")]
