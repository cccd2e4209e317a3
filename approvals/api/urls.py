from django.urls import path

from . import views

urlpatterns = [
    path("approvals/pending", views.PendingApprovalsView.as_view(), name="approvals-pending"),
    path("approvals", views.ApprovalsView.as_view(), name="approvals"),
    path("approvals/<uuid:approval_id>", views.ApprovalView.as_view(), name="approval"),
    path("approvals/<uuid:approval_id>/respond", views.RespondView.as_view(), name="approval-respond"),
]
