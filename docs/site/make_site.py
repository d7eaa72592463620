"""`make site`: writes the lab, a champion's card and the documents as pages that ask no server for anything.

The lab's sources are here and not in a package, because only this site contains it. What it shares with cards is in
`dqn/cards/static`, and each page contains its scripts.
"""

import argparse
import itertools
import re
import shutil
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

from dqn import PRESETS, train
from dqn.cards.card import FOOTER, SCRIPTS, STATIC, card, page

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
DOCUMENTS: Final = ("*.md", "docs/*.md", "benchmarks/*.md")
REFERENCE: Final = re.compile(r'(?<=src="|ref=")(?!\w+:)[^"#]+')
"""Places that a document of this repository shows or links to."""
LINKS: Final = {
    "index.html": "Watch them learn",
    "champion.html": "Play a champion",
    "README.html": "Read about it",
    "docs/training.html": "Training",
    "docs/serving.html": "Serving",
    "docs/design.html": "Design",
}


def build(output: Path, *, model: bytes | None) -> None:
    """Write the site.

    Args:
        output: directory to write to.
        model: ONNX file of the champion; None trains a population now, which takes seconds.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "index.html").write_bytes(lab())
    if model is None:
        train(PRESETS["cartpole"]).export(output / "champion.html")
    else:
        words = {"trained": "The file does not say.", "judged": "The file does not say."}
        (output / "champion.html").write_bytes(card(model, title="Champion", **words))
    for path in found(*DOCUMENTS):
        target = (output / path.relative_to(ROOT)).with_suffix(".html")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(document(path))
        for place in REFERENCE.findall(rendered(path)):
            file = (path.parent / place).resolve()
            if file.is_file() and file.suffix != ".md":
                copy = output / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def found(*patterns: str) -> list[Path]:
    """Files of the repository."""
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def lab() -> bytes:
    """The page on which a population learns. It contains an empty card, for the agent that is taken home."""
    empty = page(STATIC / "card.html", title="@title@", about="@about@", data="@data@", scripts=SCRIPTS, footer=FOOTER)
    play, _, stage, _ = SCRIPTS
    return page(
        HERE / "lab.html",
        title="Sixteen agents learn to balance a pole, in your browser",
        subtitle="They differ in nothing but their seed. Wait until they light up. Then push one.",
        about=navigation("index.html"),
        data={"card": empty.decode()},
        styles=[HERE / "lab.css"],
        scripts=[play, stage, *(HERE / name for name in ("learner.js", "onnx.js", "lab.js"))],
    )


def document(path: Path) -> bytes:
    """A document as a page, with links to the other pages instead of their sources, and without links to folders."""
    text = re.sub(r'(href="(?!\w+:)[^"#]+)\.md(?=[#"])', r"\1.html", rendered(path))
    folders = re.compile(r'<a href="((?!\w+:)[^"#]+)">(.*?)</a>', re.DOTALL)
    text = folders.sub(lambda link: link[2] if (path.parent / link[1]).is_dir() else link[0], text)
    return page(
        HERE / "document.html",
        title=re.sub("^# ", "", path.read_text().partition("\n")[0]),
        picture=navigation(str(path.relative_to(ROOT).with_suffix(".html"))),
        about=text,
        styles=[HERE / "document.css"],
    )


def rendered(path: Path) -> str:
    """A document in HTML, with the anchors that GitHub makes."""
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(path.read_text())
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", re.sub(r"[^\w\- ]", "", inline.content.lower()).replace(" ", "-"))
    return str(parser.renderer.render(tokens, parser.options, {}))


def navigation(here: str) -> str:
    """Links from the page `here` to the others."""
    up = "../" * here.count("/")
    return " ".join(f'<a href="{up}{target}">{text}</a>' for target, text in LINKS.items() if target != here)


def main() -> None:
    """Parse arguments and build."""
    parser = argparse.ArgumentParser(prog="make site", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="ONNX file of the champion to show (default: one is trained)")
    parser.add_argument("--output", type=Path, default=Path("build/site"), help="directory (default: build/site)")
    arguments = parser.parse_args()
    build(arguments.output, model=arguments.model.read_bytes() if arguments.model else None)
    print(f"{arguments.output}/index.html: open it in a browser; no server is needed")


if __name__ == "__main__":
    main()
