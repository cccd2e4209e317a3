from django.urls import path

from . import handing, views

urlpatterns = [
    path("approvals/pending", views.PendingApprovalsView.as_view(), name="approvals-pending"),
    path("approvals/respond-many", views.RespondManyView.as_view(), name="approvals-respond-many"),
    path("approvals/withdraw-many", views.WithdrawManyView.as_view(), name="approvals-withdraw-many"),
    path("approvals/policy", handing.PolicyView.as_view(), name="approvals-policy"),
    path("approvals/absences", handing.AbsencesView.as_view(), name="approvals-absences"),
    path("approvals/absences/<int:absence_id>", handing.AbsenceView.as_view(), name="approvals-absence"),
    path("approvals", views.ApprovalsView.as_view(), name="approvals"),
    path("approvals/<uuid:approval_id>", views.ApprovalView.as_view(), name="approval"),
    path("approvals/<uuid:approval_id>/respond", views.RespondView.as_view(), name="approval-respond"),
    path("approvals/<uuid:approval_id>/rework", views.ReworkView.as_view(), name="approval-rework"),
    path("approvals/<uuid:approval_id>/claim", handing.ClaimView.as_view(), name="approval-claim"),
    path("approvals/<uuid:approval_id>/release", handing.ReleaseView.as_view(), name="approval-release"),
    path("approvals/<uuid:approval_id>/delegate", handing.DelegateView.as_view(), name="approval-delegate"),
    path("approvals/<uuid:approval_id>/reassign", handing.ReassignView.as_view(), name="approval-reassign"),
    path("approvals/<uuid:approval_id>/comments", handing.CommentsView.as_view(), name="approval-comments"),
]
