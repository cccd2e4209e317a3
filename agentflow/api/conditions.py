"""How well something is, as the API shows it: `workflow.health`."""

from __future__ import annotations

from rest_framework import serializers

from ..workflow.health import Direction, Status
from .serializers import StrictSerializer


class HealthReason(StrictSerializer):
    code = serializers.CharField(help_text="Stable.")
    message = serializers.CharField()
    remedy = serializers.CharField()
    href = serializers.CharField(help_text="The page of what it tells of; empty: none.")
    status = serializers.ChoiceField(choices=[str(each) for each in Status])


class HealthFigure(StrictSerializer):
    """One number within a window, and within the window of the same length before it."""

    name = serializers.CharField()
    window = serializers.CharField(help_text="Its length: 1h, 24h or 7d.")
    now = serializers.FloatField(allow_null=True)
    before = serializers.FloatField(allow_null=True)
    direction = serializers.ChoiceField(choices=[str(each) for each in Direction])


class HealthTrend(StrictSerializer):
    direction = serializers.ChoiceField(choices=[str(each) for each in Direction])
    figures = HealthFigure(many=True)


class HealthShown(StrictSerializer):
    status = serializers.ChoiceField(choices=[str(each) for each in Status])
    reasons = HealthReason(many=True, help_text="The worst first; none where all is well.")
    trend = HealthTrend()
