"""The picture of the rooms in docs/design.md: the rooms of each package, and their imports.

    python -m benchmarks.rooms

It is drawn from the import graph that grimp, a dependency of import-linter, builds. A test fails if it is out of date.
"""

import argparse
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import grimp

ROOT: Final = Path(__file__).parent.parent
PICTURE: Final = ROOT / "docs/rooms.svg"
COLOURS: Final = {"flows": "#c2410c", "serving": "#0f766e", "dqn": "#1d4ed8"}
WIDTH, ROW, BOX, CHARACTER, MARGIN, TITLE = 520, 54, 26, 7.7, 16, 46  # px; CHARACTER is the width of a letter

Arrows = dict[str, set[str]]
"""What each room imports directly."""


def main() -> None:
    """Draw the picture and print where it is."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PICTURE.write_text(picture())
    print(PICTURE)


def picture() -> str:
    """The three packages side by side, as SVG: a room above those that it imports."""
    graph = grimp.build_graph(*COLOURS, cache_dir=None)
    rooms = {package: sorted(graph.find_children(package)) for package in COLOURS}

    def imports(room: str, others: list[str]) -> set[str]:
        def direct(other: str) -> bool:
            return graph.direct_import_exists(importer=room, imported=other, as_packages=True)

        return {other for other in others if other != room and direct(other)}

    floors, lines = {}, {}
    for package, inside in rooms.items():
        arrows = {room: imports(room, inside) for room in inside}
        floors[package] = rows(arrows)
        lines[package] = essential(arrows)
    guests = {
        room: [package for package in COLOURS if package != home and imports(package, [room])]
        for home, inside in rooms.items()
        for room in inside
    }
    height = TITLE + ROW * max(map(len, floors.values())) + MARGIN
    parts = []
    for column, package in enumerate(COLOURS):
        places = placed(
            floors[package], lines[package], left=column * (WIDTH + MARGIN) + MARGIN, bottom=height - MARGIN
        )
        parts += frame(package, column, height)
        parts += [line(places[a], places[b], COLOURS[package]) for a, below in lines[package].items() for b in below]
        for room, place in places.items():
            parts += box(room, place, folder=bool(graph.find_children(room)), guests=guests[room])
    width = len(COLOURS) * (WIDTH + MARGIN) + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + MARGIN}" font-family="sans-serif" '
        'font-size="13">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def reached(arrows: Arrows) -> Arrows:
    """Every room that each one imports, directly or not."""
    reach = {room: set(below) for room, below in arrows.items()}
    for middle in arrows:
        for below in reach.values():
            if middle in below:
                below |= reach[middle]
    return reach


def rows(arrows: Arrows) -> list[list[str]]:
    """Rooms by floor, the highest first; each floor is one above the highest room that a room of it imports."""
    reach = reached(arrows)

    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in reach[room] if room not in reach[other]), default=-1)

    heights = {room: floor(room) for room in arrows}
    found = [sorted(room for room in arrows if heights[room] == level) for level in range(max(heights.values()) + 1)]
    return found[::-1]


def essential(arrows: Arrows) -> dict[str, list[str]]:
    """The arrows that do not follow from others. An import that a room below has too needs no line."""
    reach = reached(arrows)
    return {
        room: sorted(b for b in below if not any(b in reach[other] for other in below - {b})) if below else []
        for room, below in sorted(arrows.items())
    }


def width_of(room: str) -> float:
    """The width of a room's box, px."""
    return CHARACTER * len(room.split(".")[1]) + 16


def placed(
    floors: list[list[str]], lines: dict[str, list[str]], *, left: float, bottom: float
) -> dict[str, tuple[float, float]]:
    """The middle of each room's upper edge, px: evenly spread over its floor, below the rooms that import it."""
    places: dict[str, tuple[float, float]] = {}
    for above, floor in enumerate(floors):
        y = bottom - ROW * (len(floors) - 1 - above) - BOX - 10
        over = {room: [x for other, (x, _) in places.items() if room in lines[other]] for room in floor}
        gap = (WIDTH - sum(map(width_of, floor))) / (len(floor) + 1)
        x = left + gap
        for room in sorted(floor, key=lambda room: (sum(over[room]) / max(len(over[room]), 1), room)):
            places[room] = (x + width_of(room) / 2, y)
            x += width_of(room) + gap
    return places


def frame(package: str, column: int, height: float) -> list[str]:
    """A package's border and name."""
    x, colour = column * (WIDTH + MARGIN) + MARGIN, COLOURS[package]
    return [
        f'<rect x="{x}" y="{MARGIN}" width="{WIDTH}" height="{height - MARGIN}" rx="8" fill="{colour}0d" '
        f'stroke="{colour}"/>',
        f'<text x="{x + 14}" y="{MARGIN + 25}" font-size="18" font-weight="bold" fill="{colour}">{package}/</text>',
    ]


def line(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    """From a room to one that it imports."""
    (x, y), (to_x, to_y) = (start[0], start[1] + BOX), end
    middle = (y + to_y) / 2
    return (
        f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}" fill="none" '
        f'stroke="{colour}" stroke-opacity="0.55"/>'
    )


def box(room: str, place: tuple[float, float], *, folder: bool, guests: list[str]) -> list[str]:
    """A room, and a dot for each other package that imports it. A file has a dashed border."""
    (x, y), width, colour = place, width_of(room), COLOURS[room.split(".")[0]]
    dots = [
        f'<circle cx="{x + width / 2 - 4 - 11 * n:.0f}" cy="{y:.0f}" r="4.5" fill="{COLOURS[guest]}"/>'
        for n, guest in enumerate(guests)
    ]
    dashes = "" if folder else ' stroke-dasharray="3 2"'
    return [
        f'<rect x="{x - width / 2:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX}" rx="4" fill="white" '
        f'stroke="{colour}"{dashes}/>',
        f'<text x="{x:.0f}" y="{y + 17:.0f}" text-anchor="middle">{escape(room.split(".")[1])}</text>',
        *dots,
    ]


if __name__ == "__main__":
    main()
