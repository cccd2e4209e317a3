from django.urls import path, register_converter

from . import views


class _Number:
    """A version's number; what no column can hold is no address."""

    regex = "[1-9][0-9]{0,8}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


register_converter(_Number, "version_number")

urlpatterns = [
    path("templates", views.TemplatesView.as_view(), name="templates"),
    path("templates/<uuid:template_id>", views.TemplateView.as_view(), name="template"),
    path("templates/<uuid:template_id>/validate", views.ValidateView.as_view(), name="template-validate"),
    path("templates/<uuid:template_id>/versions", views.VersionsView.as_view(), name="template-versions"),
    path(
        "templates/<uuid:template_id>/versions/<version_number:number>",
        views.VersionView.as_view(),
        name="template-version",
    ),
    path(
        "templates/<uuid:template_id>/versions/<version_number:number>/publish",
        views.PublishView.as_view(),
        name="template-version-publish",
    ),
    path(
        "templates/<uuid:template_id>/versions/<version_number:number>/deprecate",
        views.DeprecateView.as_view(),
        name="template-version-deprecate",
    ),
]
