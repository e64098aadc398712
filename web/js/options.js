// Shows a combo's choices with their translation behind them. ComfyUI translates names and tooltips from locales/, but
// not the choices; a widget's getOptionLabel is the front end's own way to show them otherwise. Values stay as they are.
import { app } from "../../../scripts/app.js";
import { part, ready } from "./texts.js";

const PREFIX = "Exemplar"; // of the pack's node ids
const KEY = "exemplarOptions"; // in locales/<language>/main.json

function label(option) {
  const translated = part(KEY)[option];
  return translated && translated !== option ? `${option}（${translated}）` : option;
}

app.registerExtension({
  name: "Exemplar.Options",
  init: ready,
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith(PREFIX)) return;
    for (const widget of node.widgets ?? []) {
      if (widget.type !== "combo" || widget.options.getOptionLabel) continue;
      widget.options.getOptionLabel = (option) => label(option ?? "");
    }
  },
});
