"""The page: three tabs, each with pictures and settings to the left and the result to the right."""

# No `from __future__ import annotations`: gradio reads the annotation of a request where gradio is imported here.

import html
from typing import Any

from .by_example import by_example
from .jobs import Jobs
from .models import Models
from .serving import KEPT
from .tabs import automatic, of_an_edit

TITLE = "Exemplar: color pictures by example"

STYLE = """
.said { margin: 0.15em 0; overflow-wrap: anywhere; }
.legend { list-style: none; margin: 0.4em 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0.3em 1.2em; }
.legend i { display: inline-block; width: 1em; height: 1em; margin-right: 0.4em; border-radius: 3px;
  vertical-align: -0.15em; }
.thumbnails { display: flex; flex-wrap: wrap; gap: 0.6em; }
.thumbnails figure { margin: 0; max-width: 9em; }
.thumbnails img { height: 6em; max-width: 100%; object-fit: contain; border-radius: 4px; }
.thumbnails figcaption { font-size: 0.8em; overflow-wrap: anywhere; }
"""

#: A picture in the clipboard is taken as if it had been dropped.
HEAD = """<script>
document.addEventListener("paste", (event) => {
  const files = event.clipboardData ? [...event.clipboardData.files] : [];
  const seen = (zone) => zone.closest(".first").offsetParent;
  const zones = [...document.querySelectorAll(".first input[type=file]")].filter(seen);
  if (!files.length || !zones.length) return;
  const given = new DataTransfer();
  given.items.add(files[0]);
  zones[0].files = given.files;
  zones[0].dispatchEvent(new Event("change", { bubbles: true }));
});
</script>"""


def theme() -> Any:
    """Colors and letters of the page; letters are the system's, so that none are fetched."""
    import gradio as gr

    fonts = ("system-ui", "sans-serif")
    made = gr.themes.Default(primary_hue="indigo", font=fonts, font_mono=("ui-monospace", "monospace"))
    return made.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")


def build(models: Models, jobs: Jobs) -> Any:
    """gradio's Blocks of the whole page.

    :param jobs: where its jobs are done.
    """
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=KEPT) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>Model: {html.escape(models.name)}. Everything stays on this machine.</p>")
        with gr.Tab("By example"):
            by_example(models, jobs)
        with gr.Tab("Colors of an edit"):
            of_an_edit(jobs)
        with gr.Tab("Automatic"):
            automatic(models, jobs)

        def left(request: gr.Request) -> None:
            jobs.stop(request.session_hash or "")

        page.unload(left)
    page.queue(max_size=8, default_concurrency_limit=2)
    return page
