"""The facts of this service. Plain values: they know neither the bus nor who listens.

Each class names only the fields that somebody reads. GitHub's bodies have hundreds more, and
get new ones every month; reading passes over what it doesn't know.
"""

from __future__ import annotations

from eventflow import Event, Part, RawJson

MAX_LINE_CHARS = 200


class WebhookReceived(Event, topic="webhooks.received"):
    """A delivery as it came: for whoever needs every byte, or events nobody has modelled."""

    delivery: str
    event: str
    body: RawJson


class ServiceStopping(Event, topic="webhooks.stopping"):
    """The server is about to stop; whoever holds a connection open should let it go."""


class Account(Part):
    """Who did something."""

    login: str


class Repository(Part):
    """Where it was done."""

    full_name: str


class Activity(Event):
    """Something that somebody did on GitHub.

    It has no topic, so it is a base: who subscribes to it gets all of its subclasses.
    """

    # Deliveries about organisations and installations have no repository; a few have no sender.
    repository: Repository | None = None
    sender: Account | None = None

    @property
    def where(self) -> str:
        """Name of the repository, empty without one."""
        return self.repository.full_name if self.repository else ""

    def describe(self) -> str:
        """One line for people."""
        line = f"{self.sender.login if self.sender else 'somebody'} {self._deed()}"
        return line if len(line) <= MAX_LINE_CHARS else line[:MAX_LINE_CHARS] + "…"

    def _deed(self) -> str:
        return "did something else"


class Commit(Part):
    """One of the commits of a push."""

    message: str


class Pushed(Activity, topic="github.push"):
    """Commits were pushed to a branch or a tag, or it was deleted."""

    ref: str
    deleted: bool = False
    commits: tuple[Commit, ...] = ()

    def _deed(self) -> str:
        name = self.ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
        if self.deleted:
            return f"deleted {name}"
        if not self.commits:
            return f"pushed {name}"
        subject = self.commits[-1].message.partition("\n")[0]
        return f"pushed {len(self.commits)} to {name}: {subject}"


class Issue(Part):
    """The issue that something was done to."""

    number: int
    title: str


class IssueChanged(Activity, topic="github.issues"):
    """An issue was opened, closed, labelled, …."""

    action: str
    issue: Issue

    def _deed(self) -> str:
        return f"{self.action} issue #{self.issue.number}: {self.issue.title}"


class PullRequest(Part):
    """The pull request that something was done to."""

    title: str
    merged: bool = False


class PullRequestChanged(Activity, topic="github.pull_request"):
    """A pull request was opened, closed, merged, …."""

    action: str
    number: int
    pull_request: PullRequest

    def _deed(self) -> str:
        merged = self.action == "closed" and self.pull_request.merged
        action = "merged" if merged else self.action
        return f"{action} pull request #{self.number}: {self.pull_request.title}"


class Release(Part):
    """The release that something was done to."""

    tag_name: str
    name: str | None = None


class ReleaseChanged(Activity, topic="github.release"):
    """A release was drafted, published, edited, …."""

    action: str
    release: Release

    def _deed(self) -> str:
        return f"{self.action} release {self.release.name or self.release.tag_name}"


ACTIVITIES: dict[str, type[Activity]] = {
    "push": Pushed,
    "issues": IssueChanged,
    "pull_request": PullRequestChanged,
    "release": ReleaseChanged,
}
"""What the value of GitHub's event header stands for. A name from outside is looked up here and
nowhere else: nothing is imported because a request said so."""

CARRIED: tuple[type[Event], ...] = (WebhookReceived, *ACTIVITIES.values())
"""What goes through the broker, where there is one. ServiceStopping is nobody else's business."""


def activity_of(received: WebhookReceived) -> Activity | None:
    """Decode a delivery; ``None`` if its event is not one of the four.

    Raises:
        EventDecodeError: GitHub's body is not what the class expects.
    """
    kind = ACTIVITIES.get(received.event)
    if kind is None:
        return None
    # The activity goes by the id that GitHub knows it by, and by the time at which we were told.
    return kind.from_json(
        bytes(received.body), event_id=received.delivery, occurred_at=received.occurred_at
    )
