"""Starts one child so that it cannot outlive its parent; exec'd as a script, before any thread exists.

    python -I -S launch.py PARENT_PID SIGNAL USER COMMAND...

Linux sends SIGNAL to the child when the thread that started it ends, even by kill -9.  Elsewhere the
next start finds the orphan by its pid file.  A `preexec_fn` could do the same, but may deadlock in a
process that has threads.  USER is a name to become first, or "-".
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, signal_number, user, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if user != "-":
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    if libc is not None:  # after setuid, which clears it
        libc.prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the parent died first")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
