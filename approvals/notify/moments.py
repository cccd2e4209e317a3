"""When a message goes out.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from .states import Digest

DAY_BEGINS = time(8)  # a daily digest is sent then, or at the end of the quiet hours
ANSWERING = timedelta(minutes=15)  # what is left of the time to answer, or it cannot wait


@dataclass(frozen=True, slots=True)
class Quiet:
    """From and to, by the clocks of a zone; `to` may lie on the next day."""

    begins: time
    ends: time

    def end_for(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """The end of the quiet hours that `moment` lies in, or None."""
        local = moment.astimezone(zone)
        for day in (local.date() - timedelta(days=1), local.date()):
            begin = datetime.combine(day, self.begins, zone).astimezone(UTC)
            last = day if self.begins < self.ends else day + timedelta(days=1)
            end = datetime.combine(last, self.ends, zone).astimezone(UTC)
            if begin <= moment < end:
                return end
        return None


@dataclass(frozen=True, slots=True)
class Moment:
    at: datetime
    digest: bool  # may be told together with others


def send_at(
    now: datetime,
    *,
    digest: str = Digest.IMMEDIATELY,
    quiet: Quiet | None = None,
    zone: ZoneInfo | None = None,
    respond_by: datetime | None = None,
) -> Moment:
    """The moment to send what happened `now`.

    Quiet hours and digests put it off; nothing is put off past the time in which it can be answered
    (`respond_by`; None where no answer is asked for).
    """
    zone = zone or ZoneInfo("UTC")
    at = _digest_at(now, digest, quiet, zone)
    if quiet is not None:
        at = quiet.end_for(at, zone) or at
    if respond_by is not None and at > now and respond_by < at + ANSWERING:
        return Moment(now, digest=False)
    return Moment(at, digest=digest != Digest.IMMEDIATELY)


def _digest_at(now: datetime, digest: str, quiet: Quiet | None, zone: ZoneInfo) -> datetime:
    local = now.astimezone(zone)
    if digest == Digest.HOURLY:
        return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    if digest == Digest.DAILY:
        begins = quiet.ends if quiet else DAY_BEGINS
        today = datetime.combine(local.date(), begins, zone).astimezone(UTC)
        if today > now:
            return today
        return datetime.combine(local.date() + timedelta(days=1), begins, zone).astimezone(UTC)
    return now
