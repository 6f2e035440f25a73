"""Runs the README's first Python on the mmembed that is installed, in the folder it is called in, which is empty.

python -P keeps the checkout off the path; how a block is run comes from the tests.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

from pages import blocks_of, demo_folder, run_blocks  # noqa: E402

import mmembed  # noqa: E402

if not Path(mmembed.__file__).is_relative_to(sys.prefix):
    sys.exit(f"mmembed comes from {mmembed.__file__}, not from the wheel")
blocks = blocks_of("README.md")
first = [block.language for block in blocks].index("python")
run_blocks(blocks[first : first + 2], demo_folder(Path.cwd()))
sys.stdout.write(f"mmembed {mmembed.__version__} from its wheel: the README's Python prints what it says\n")
