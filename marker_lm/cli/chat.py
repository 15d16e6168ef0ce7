"""A conversation with a trained model in the terminal, with markers as levers.

A line is a prompt, or a command that begins with '/': /set lang=Japanese, /free task, /ban task,
/ask domain, /sweep length_bucket, /guide 2.0, /levers; /help lists all. The answer appears as it is
made, then the markers with what the model inferred and how sure it is. Ctrl-C stops an answer,
Ctrl-D or /quit ends the session. Lines may also come from a file or a pipe.

  marker-lm chat --workdir=/tmp/run --pin=lang=German
  printf 'Tell me about Japan.\\n/save talk.jsonl\\n' | marker-lm chat --workdir=/tmp/run
"""

import sys

from marker_lm.cli.levers import (
    add_engine,
    add_guidance,
    add_levers,
    add_sampling,
    load,
    read_controls,
    read_guidance,
    read_sampling,
)

_CONTROLS = {code: 0x2400 + code for code in (*range(9), *range(11, 32))} | {127: 0x2421}


def add_arguments(parser) -> None:
    add_engine(parser)
    add_levers(parser)
    add_guidance(parser)
    add_sampling(parser)


def run(args) -> None:
    controls, guidance = read_controls(args), read_guidance(args)
    from rich.console import Console

    from marker_lm.annotate.checks import make_counters
    from marker_lm.decoding.chat_session import ChatSession

    engine, config, _ = load(args)
    sampling = read_sampling(args, config.decode)
    session = ChatSession(engine, controls, sampling, guidance, make_counters(engine.taxonomy))
    console = Console(highlight=False, soft_wrap=True)
    live = sys.stdin.isatty()
    if live:
        _complete_with(session)
        memory = "" if engine.chat else "; trained without conversations, each prompt stands alone"
        _say(console, f"{args.workdir}, {len(session.names)} levers{memory}. /help lists commands.")
    while session.open and (line := _read(live)) is not None:
        try:
            for event in session.handle(line):
                _show(console, event)
        except ValueError as error:
            _say(console, str(error), "red")
        except KeyboardInterrupt:
            _say(console, "\nstopped; this answer is not part of the conversation", "yellow")


def _read(live: bool) -> str | None:
    """The next line; None at the end. Ctrl-C at the prompt gives an empty one."""
    try:
        return input("> ") if live else next(sys.stdin, None)
    except EOFError:
        return None
    except KeyboardInterrupt:
        print()
        return ""


def _complete_with(session) -> None:
    """Tab completion and a history of lines, where the readline library is there."""
    try:
        import readline
    except ImportError:  # not on every platform
        return
    readline.set_completer_delims("")
    readline.set_completer(lambda line, n: (session.complete(line)[n : n + 1] or [None])[0])
    readline.parse_and_bind("tab: complete")


def _say(console, text: str, style: str = "dim") -> None:
    console.print(_visible(text), style=style, markup=False)


def _show(console, event) -> None:
    from rich.table import Table
    from rich.text import Text

    from marker_lm.decoding import chat_events
    from marker_lm.decoding.chat_session import show

    match event:
        case chat_events.Piece(text):
            console.print(_visible(text), end="", markup=False)
            console.file.flush()
        case chat_events.Answered(result, value):
            if value is None:
                console.print()
            else:
                console.print(Text(value, "bold"))
                console.print(_visible(result.text), markup=False)
            console.print(_markers(result))
        case chat_events.Levers(levers):
            table = Table("lever", "state", "pinned to", "takes")
            for lever in levers:
                style = "" if lever.state == "free" else "bold"
                value = "" if lever.value is None else show(lever.value)
                cells = (lever.category, lever.state, value, lever.takes)
                table.add_row(*(Text(cell) for cell in cells), style=style)
            console.print(table, soft_wrap=False)
        case chat_events.Said(text):
            _say(console, text)


def _markers(result):
    """The list of an answer: pinned ones, then how sure each inferred one is; why it ended."""
    from rich.text import Text

    from marker_lm.decoding.chat_session import show

    line = Text()
    for category, value in result.markers.items():
        pinned = category in result.pinned
        sure = "pinned" if pinned else f"{result.probability[category]:.2f}"
        line.append(f"{category}=", "dim").append(show(value), "cyan" if pinned else "green")
        line.append(f" {sure}  ", "dim")
    if not result.finished:
        line.append(f"(ended by {result.reason})", "yellow")
    return line


def _visible(text: str) -> str:
    """Text whose control characters can't move the cursor: they get their pictures."""
    return text.translate(_CONTROLS)
