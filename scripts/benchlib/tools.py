"""Other programs: run to their end, or not at all."""
import subprocess
import sys

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def run(*command, stdin=None):
    """Runs a program; what it says on standard output, or the end of everything."""
    try:
        done = subprocess.run(command, input=stdin, text=True, capture_output=True)
    except FileNotFoundError:
        sys.exit(f"bench: {command[0]} is missing")
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
