"""Check of the sandbox for model-written programs: which layers hold, and which languages run."""

from __future__ import annotations

from r1pipe.doctor.checks import Check
from r1pipe.sandbox.layers import NAMESPACES, OUTER, REQUIRED, lost, missing
from r1pipe.sandbox.runners import RUNNERS, is_runnable
from r1pipe.sandbox.session import Outcome, Sandbox, Status
from r1pipe.sandbox.strength import as_text, found

WITHOUT_NAMESPACES = (
    "allow user namespaces: sysctl user.max_user_namespaces, on Ubuntu also"
    " kernel.apparmor_restrict_unprivileged_userns=0; for a container, a seccomp profile that"
    " allows unshare and mount"
)


def check_sandbox(outcome: Outcome | None = None, reason: str = "") -> list[Check]:
    """Check the layers that an empty program had here, and the compilers of other languages."""
    outcome = outcome or found()
    wanted = f"{len(REQUIRED)} layers"
    gone = missing(outcome.layers)
    names = [name for name in RUNNERS if is_runnable(name)]
    languages = Check("sandbox", "languages", "ok", ", ".join(names), "python; others are optional")
    if not gone:
        outer = "" if outcome.layers.get(OUTER) else "; without bubblewrap, which is optional"
        return [Check("sandbox", "sandbox", "ok", f"{as_text()}{outer}", wanted), languages]
    if outcome.status is Status.CRASHED:
        advice = f"programs cannot be run: {outcome.stderr}"
        return [Check("sandbox", "sandbox", "warning", "it does not start", wanted, advice)]
    advice = f"without them code rewards refuse, unless run.sandbox is weak: {lost(gone)}"
    if set(gone) & set(NAMESPACES):
        reason = reason or _reason()
        advice += f". {WITHOUT_NAMESPACES}" + (f" (the kernel said: {reason})" if reason else "")
    return [
        Check("sandbox", "sandbox", "warning", f"missing: {', '.join(gone)}", wanted, advice),
        languages,
    ]


def _reason() -> str:
    """Return why a sandbox has no namespaces, as the kernel says it."""
    sandbox = Sandbox()
    try:
        return sandbox.why_without()
    finally:
        sandbox.close()
