// Shows a combo's choices with their translation behind them. ComfyUI translates names and tooltips from locales/, but
// not the choices; a widget's getOptionLabel is the front end's own way to show them otherwise. Values stay as they are.
import { app } from "../../../scripts/app.js";
import { part, ready } from "./texts.js";

const PREFIX = "Exemplar"; // of the pack's node ids
const KEY = "exemplarOptions"; // in locales/<language>/main.json

function label(option) {
  const choices = part(KEY);
  const translated = Object.hasOwn(choices, option) ? choices[option] : option;
  return translated === option ? option : `${option}（${translated}）`;
}

// On the classic canvas the menu of a combo that has labels of its own is built without the filter, which lists of files
// need: only fixed lists are labeled, and only where something is translated.
function isTranslated(options) {
  const choices = part(KEY);
  const fixed = Array.isArray(options) && options.every((option) => Object.hasOwn(choices, option));
  return fixed && options.some((option) => label(option) !== option);
}

app.registerExtension({
  name: "Exemplar.Options",
  init: ready,
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith(PREFIX)) return;
    for (const widget of node.widgets ?? []) {
      if (widget.type !== "combo" || widget.options.getOptionLabel || !isTranslated(widget.options.values)) continue;
      widget.options.getOptionLabel = (option) => label(option ?? "");
    }
  },
});
