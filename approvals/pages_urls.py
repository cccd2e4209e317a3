"""Pages."""

from django.urls import path

from . import pages

urlpatterns = [
    path("inbox/", pages.inbox, name="inbox"),
    path("inbox/decided/", pages.decided, name="inbox-decided"),
    path("inbox/rows", pages.rows, name="inbox-rows"),
    path("inbox/count", pages.count, name="inbox-count"),
    path("inbox/views", pages.save_view, name="inbox-save-view"),
    path("inbox/views/<int:view_id>/remove", pages.remove_view, name="inbox-remove-view"),
    path("inbox/<uuid:approval_id>/", pages.question, name="inbox-question"),
    path("inbox/<uuid:approval_id>/alike", pages.alike, name="inbox-alike"),
    path("inbox/<uuid:approval_id>/seen", pages.seen, name="inbox-seen"),
]
