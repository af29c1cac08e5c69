#!/usr/bin/env python3
"""Runs a command on a terminal and records it: as asciicast v2, and as an SVG that plays.

    scripts/record.py FILE.svg SHOWN COMMAND [ARGUMENT...]

SHOWN is what stands there as the command. FILE.cast is the recording itself (https://docs.asciinema.org/manual/asciicast/v2/). The SVG shows each
line when it came; a pause of more than a second is cut to one. Where motion is unwanted, all lines are
there at once.
"""

import json
import os
import pty
import re
import sys
import time
from html import escape

COLUMNS, LONGEST_PAUSE = 132, 1.0
LINE, MARGIN, CHARACTER = 18, 12, 7.8
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)")


def record(command):
    """Runs the command. Returns what came, each with its time, and its status."""
    events, begun = [], time.monotonic()

    def read(descriptor):
        data = os.read(descriptor, 65536)
        events.append((time.monotonic() - begun, data.decode("utf-8", "replace")))
        return data

    os.environ["COLUMNS"] = str(COLUMNS)
    status = pty.spawn(command, read)
    return events, os.waitstatus_to_exitcode(status)


def lines_of(events):
    """Returns the lines, each with the time at which it became what it is."""
    lines, last, now = [["", 0.0]], 0.0, 0.0
    for at, text in events:
        now += min(at - last, LONGEST_PAUSE)
        last = at
        for part in re.split(r"(\r\n|\n|\r)", ESCAPES.sub("", text)):
            if part in ("\r\n", "\n"):
                lines.append(["", now])
            elif part == "\r":
                lines[-1] = ["", now]
            elif part:
                lines[-1] = [lines[-1][0] + part, now]
    while lines and not lines[-1][0].strip():
        lines.pop()
    return lines


def svg_of(command, lines):
    """Returns an SVG of the lines."""
    lines = [["$ " + command, 0.0]] + lines
    width = int(2 * MARGIN + COLUMNS * CHARACTER)
    height = 2 * MARGIN + LINE * len(lines)
    rows = []
    for row, (text, at) in enumerate(lines):
        text = escape(text[:COLUMNS].rstrip())
        rows.append(
            f'<text x="{MARGIN}" y="{MARGIN + LINE * row + 13}" style="animation-delay:{at:.2f}s">{text}</text>'
        )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A recording of {escape(command)}</title>
<style>
rect {{ fill: #16181d }}
text {{ fill: #e4e6eb; font: 13px monospace; white-space: pre; opacity: 0; animation: come 1ms forwards }}
@keyframes come {{ to {{ opacity: 1 }} }}
@media (prefers-reduced-motion: reduce) {{ text {{ opacity: 1; animation: none }} }}
</style>
<rect width="100%" height="100%" rx="6"/>
{chr(10).join(rows)}
</svg>
"""


def main():
    """Records a command."""
    if len(sys.argv) < 4 or not sys.argv[1].endswith(".svg"):
        sys.exit(__doc__)
    path, shown, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    events, status = record(command)
    if status != 0:
        sys.exit(f"record: {' '.join(command)} failed with status {status}: nothing is written")
    header = {"version": 2, "width": COLUMNS, "height": 40, "command": shown}
    cast = [header] + [[round(at, 3), "o", text] for at, text in events]
    with open(path.removesuffix(".svg") + ".cast", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in cast)
    with open(path, "w", encoding="utf-8") as file:
        file.write(svg_of(shown, lines_of(events)))


main()
