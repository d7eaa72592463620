"""Shows that are played to the end."""

from serving.show.show import Show


def play_to_the_end(show: Show) -> None:
    show._tick(0.02)
    while not show._break_left:
        show._tick(0.02)
