// Shows the pack's own example workflows in the page's language: notes, titles of nodes and groups. A graph is one of
// them as long as its note is the English one, word for word; all others are left alone.
import { app } from "../../../scripts/app.js";
import { pageLanguage, part, ready } from "./texts.js";

const NOTES = "exemplarNotes"; // in locales/<language>/main.json: a workflow's note by the workflow's name
const TITLES = "exemplarTitles"; // the same: translations by the English title
const NOTE_TYPES = ["MarkdownNote", "Note"];

function translate(graph) {
  const english = Object.entries(part(NOTES, "en"));
  const [notes, titles] = [part(NOTES), part(TITLES)];
  const found = graph.nodes
    .filter((node) => NOTE_TYPES.includes(node.type))
    .map((node) => [node.widgets?.[0], english.find(([, text]) => text === node.widgets?.[0]?.value)?.[0]])
    .filter(([, name]) => notes[name]);
  if (!found.length) return;
  for (const [widget, name] of found) widget.value = notes[name];
  const graphs = [graph, ...(graph.subgraphs?.values() ?? [])];
  for (const item of graphs.flatMap((each) => [...each.nodes, ...each.groups])) {
    if (Object.hasOwn(titles, item.title)) item.title = titles[item.title];
  }
}

app.registerExtension({
  name: "Exemplar.Workflows",
  init: ready,
  afterConfigureGraph() {
    if (pageLanguage() !== "en") translate(app.graph);
  },
});
