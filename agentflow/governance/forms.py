"""Forms of the admin that write lists as lines."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextareaWidget

from ..errors import InvalidInput
from .budgets import validate_budget
from .egress import validate_allow_list
from .json_fields import JSONObjectField
from .models import Secret, User, Workspace
from .roles import Role
from .services import secrets

MEMBERS_MAX = 5000


class LinesField(forms.Field):
    """A list of texts, one a line."""

    def __init__(self, *, rows: int = 4, **options: Any) -> None:
        widget = UnfoldAdminTextareaWidget(attrs={"rows": rows})
        super().__init__(required=False, widget=widget, **options)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:
        lines = (line.strip() for line in (value or "").splitlines())
        return list(dict.fromkeys(line for line in lines if line))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return sorted(initial or []) != sorted(self.to_python(data))


class MembersField(LinesField):
    """Usernames, one a line; gives users.  Nobody's list of all users is shown."""

    def clean(self, value: Any) -> list[User]:
        names = self.to_python(value)
        if len(names) > MEMBERS_MAX:
            raise ValidationError(f"At most {MEMBERS_MAX} members.")
        found = {user.username: user for user in User.objects.filter(username__in=names)}
        unknown = [name for name in names if name not in found]
        if unknown:
            raise ValidationError(f"There is no user named {', '.join(unknown[:10])}.")
        return [found[name] for name in names]


class WorkspaceForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    egress_allow = LinesField(
        label="Hosts inside",
        help_text="What agents may call beside public addresses, one a line: intranet.example,"
        " *.corp.example:8443, 10.2.0.0/16.",
        validators=[validate_allow_list],
    )
    budget = JSONObjectField(
        or_empty=True,
        label="Budget of a day",
        help_text='What its agents may use up together from 00:00 to 24:00 UTC: {"cost": 50,'
        ' "currency": "EUR", "tokens": 2000000, "softShare": 0.8, "whenSpent": "ask"}.'
        ' "wait": until the next day, unasked.',
        validators=[validate_budget],
    )
    viewer = MembersField(label="Viewers", help_text="Usernames, one a line.")
    author = MembersField(label="Authors")
    operator = MembersField(label="Operators")
    approver = MembersField(label="Approvers")
    admin = MembersField(label="Admins")

    class Meta:
        model = Workspace
        fields = ("slug", "name", "environment", "egress_allow", "script_network", "explore_agents", "budget")
        labels = {"explore_agents": "Explore"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            for role in Role:
                members = User.objects.filter(
                    groups__workspace_role__workspace=self.instance,
                    groups__workspace_role__role=role.value,
                )
                self.initial[role.value] = list(
                    members.order_by("username").values_list("username", flat=True)
                )


class GroupForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    members = MembersField(help_text="Usernames, one a line.")

    class Meta:
        model = Group
        fields = ("name",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            names = User.objects.filter(groups=self.instance).order_by("username")
            self.initial["members"] = list(names.values_list("username", flat=True))


class SecretForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    value = forms.CharField(
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}, render_value=False),
        help_text="Agents of the workspace refer to it as ${secrets.NAME}. Nobody gets to read it again.",
    )

    class Meta:
        model = Secret
        fields = ("workspace", "name")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        try:
            secrets.check(cleaned.get("name", self.instance.name), cleaned["value"])
        except InvalidInput as error:
            for issue in error.issues:
                self.add_error(issue["pointer"].strip("/"), issue["message"])
        return cleaned

    def validate_unique(self) -> None:
        """The same name again replaces the secret."""

    def validate_constraints(self) -> None:
        """As `validate_unique`."""
