"""The contact sheet: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mmembed.types import Hit

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h2 small { color: var(--soft); font-weight: normal; display: block; }
.asked { display: flex; align-items: center; gap: .75rem; }
.asked img { width: 40px; height: 40px; }
.grid, .list { display: grid; gap: .75rem; padding: 0; margin: 0; }
.grid { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.grid li, .list li { list-style: none; border: 1px solid var(--line); border-radius: 8px; padding: .75rem; }
.grid li { text-align: center; } .grid img { width: 72px; height: 72px; }
.list div { white-space: pre-line; overflow-wrap: anywhere; }
.score { color: var(--soft); font-variant-numeric: tabular-nums; font-size: .85rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
"""


@dataclass(frozen=True)
class SheetSection:
    """One search: what was asked, with which picture, and what came."""

    kind: str
    asked: str
    image: Path | None
    hits: Sequence[Hit]


def write_sheet(output: Path, sections: Sequence[SheetSection], refusal: str) -> None:
    """Write every search with its hits, and the sentence with which a wrong encoder was refused."""
    body = "\n".join(_section(section) for section in sections)
    output.write_text(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mmembed demo</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>mmembed demo</h1>
<p>Every hit below was computed in this run: pictograms encoded by <code>tiny</code>, passages by
all-MiniLM-L6-v2 and BM25, searched by Qdrant. Beside each hit: its score and, where the encoder gives
one, its probability among the 100 best.</p>
{body}
<section>
<h2><small>wrong encoder</small>The same images, searched with another encoder</h2>
<p>Refused: {escape(refusal)}</p>
</section>
<footer>Pictograms: Twemoji, Copyright 2019 Twitter, Inc and other contributors,
<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>. Names: emojibase, MIT.</footer>
</body>
</html>
""",
        encoding="utf-8",
    )


def _section(section: SheetSection) -> str:
    image = _image(section.image, "the picture that was asked with") if section.image else ""
    images = all("text" not in hit.payload for hit in section.hits)
    hits = "\n".join(_image_hit(hit) if images else _passage(hit) for hit in section.hits)
    return f"""<section>
<h2 class="asked">{image}<span><small>{escape(section.kind)}</small>{escape(section.asked)}</span></h2>
<ol class="{"grid" if images else "list"}">
{hits}
</ol>
</section>"""


def _image_hit(hit: Hit) -> str:
    label = str(hit.payload.get("label", ""))
    probability = f", {hit.probability:.1%}" if hit.probability is not None else ""
    image = _image(Path(hit.payload["uri"]), label)
    return f'<li>{image}<div>{escape(label)}</div><div class="score">{hit.score:.4f}{probability}</div></li>'


def _passage(hit: Hit) -> str:
    heading = " > ".join(hit.payload["headings"]) or hit.payload["title"]
    probability = f", {hit.probability:.1%}" if hit.probability is not None else ""
    source = Path(hit.payload["uri"]).name
    return (
        f"<li><strong>{escape(heading)}</strong><div>{escape(hit.payload['text'])}</div>"
        f'<div class="score">{hit.score:.4f}{probability}, {escape(source)}</div></li>'
    )


def _image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
