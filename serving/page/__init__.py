"""The page: static files without a build step."""

from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent / "static"
