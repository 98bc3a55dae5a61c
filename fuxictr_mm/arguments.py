"""The form that the help of every verb has."""

import argparse

__all__ = ["COMMAND", "verb_parser"]

COMMAND = "fuxictr-mm"


def verb_parser(verb: str, description: str | None, *examples: str) -> argparse.ArgumentParser:
    """A parser of the arguments behind a verb.

    Args:
        verb: its name.
        description: what it does; a docstring.
        examples: arguments with which it runs as they are.
    """
    shown = "".join(f"\n    {COMMAND} {verb} {example}" for example in examples)
    return argparse.ArgumentParser(
        f"{COMMAND} {verb}",
        description=description,
        epilog=f"example:{shown}" if shown else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
